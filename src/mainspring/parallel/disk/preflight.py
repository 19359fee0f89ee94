"""Before training on a disk: is there room, does it give back what it takes, how fast, what a step costs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mainspring.errors import DiskError
from mainspring.parallel.disk.blocks import BLOCK
from mainspring.parallel.disk.buffers import aligned
from mainspring.parallel.disk.store import Store, padded_bytes
from mainspring.parallel.zero.placement import Shard

Move = Callable[[str, Tensor], Future[None]]

TRIAL_BYTES = 64 * BLOCK
"""Written and read to measure a disk: more says little more and takes longer."""
STREAMS = 3
"""Files that the trial moves at once, as a step moves masters and two moments."""


@dataclass(frozen=True)
class Preflight:
    """What was found of a folder."""

    folder: Path
    needed: int
    """Bytes that the states will take."""
    free: int
    """Bytes that the file system can give."""
    read_rate: float
    """Bytes a second, checksums included."""
    write_rate: float
    """Bytes a second, checksums included."""
    direct: bool
    """Whether the file system has direct I/O; without it the rates are partly those of memory."""

    def seconds(self, read: int, written: int) -> float:
        """How long it takes to read and write so many bytes."""
        return read / self.read_rate + written / self.write_rate

    def step_seconds(self, traffic: Traffic, compute: float, update: float = 0.0) -> float:
        """How long a training step will take.

        Reading parameters is hidden behind forward and backward as far as these go, the rest of the traffic
        behind the optimizer's arithmetic: the longer of the two counts.

        Args:
            traffic: of one step of this rank.
            compute: seconds of its forward and backward.
            update: seconds of the optimizer's step in memory.
        """
        return max(compute, self.seconds(traffic.parameters, 0)) + max(
            update, self.seconds(traffic.step_read, traffic.step_written)
        )


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank moves to and from its disk in a step."""

    parameters: int
    """Read in forward and backward."""
    step_read: int
    """Read in the optimizer's step."""
    step_written: int
    """Written in it."""

    @classmethod
    def of(
        cls, elements: int, *, rows: int = 2, compute_bytes: int = 2, gathers: int = 2, passes: int = 1
    ) -> Traffic:
        """Of `elements` on this rank.

        >>> Traffic.of(1_000_000)
        Traffic(parameters=4000000, step_read=12000000, step_written=14000000)

        Args:
            elements: parameters over ranks.
            rows: fp32 states that the optimizer keeps an element (Adam: 2).
            compute_bytes: of a parameter in forward and backward: 2 or 4.
            gathers: how often a step reads each parameter: in stage 3 twice for each micro-batch (forward
                and backward), in the others not at all.
            passes: how often the optimizer goes over all (LAMB: 2); each reads masters and states, and
                together they write them once.
        """
        copies = compute_bytes if compute_bytes != 4 and gathers else 0
        states = 4 * (1 + rows)
        return cls(
            gathers * compute_bytes * elements, passes * states * elements, (states + copies) * elements
        )


def bytes_needed(shards: Sequence[Shard], rows: int = 2) -> int:
    """Bytes of disk for shards with masters, `rows` fp32 states each, and parameters in another dtype."""
    return sum(
        (1 + rows * s.trainable) * padded_bytes(s.numel, s.dtype)
        + (padded_bytes(s.numel, s.compute_dtype) if s.compute_dtype != s.dtype else 0)
        for s in shards
    )


def preflight(folder: str | Path, needed: int, *, trial: int = TRIAL_BYTES) -> Preflight:
    """Try a folder out.

    Args:
        folder: made if it is not there.
        needed: bytes that will be stored, by all ranks that use this file system.
        trial: bytes to write and read.

    Raises:
        DiskError: there is too little room (with the numbers), the folder cannot be used, or it does not
            give back what was written.
    """
    folder = Path(folder)
    with Store(folder) as store:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DiskError(
                f"{folder}: states need {needed:,} bytes of disk and {free:,} are free: {needed - free:,} "
                "too few. Free space, name a folder on a larger disk (plan.offload_folder), or spread the "
                "run over more machines"
            )
        each = max(1, min(trial, free // 2) // STREAMS // BLOCK) * BLOCK
        pattern = aligned(each)
        pattern.view(torch.int64).copy_(torch.arange(each // 8))
        names = [f"trial{i}" for i in range(STREAMS)]
        for name in names:
            store.create(name, each, torch.uint8)
        write_seconds = min(_timed(store, store.write, names, [pattern] * STREAMS) for _ in range(2))
        back = [aligned(each) for _ in names]
        read_seconds = min(_timed(store, store.read, names, back) for _ in range(2))
        for found in back:
            if not torch.equal(found, pattern):
                raise DiskError(f"{folder}: what was read is not what was written; name another folder")
        total = each * STREAMS
        return Preflight(folder, needed, free, total / read_seconds, total / write_seconds, store.direct)


def _timed(store: Store, move: Move, names: Sequence[str], buffers: Sequence[Tensor]) -> float:
    began = time.perf_counter()
    for name, buffer in zip(names, buffers, strict=True):
        move(name, buffer)
    store.flush()
    return time.perf_counter() - began
