"""The disk tier: masters, optimizer states and parameters of flat shards in files, through a fixed arena.

What stays in memory of a model of P parameters over N ranks: its gradients (2P/N bytes in bf16, 4P/N in
fp32), the units that are gathered, and the arena. All else is on disk: in bf16 12P/N bytes of states and
2P/N of parameters. Forward and backward read parameters (stage 3), ahead of their use; the optimizer's step
reads and writes everything once, while it computes (Rajbhandari et al. 2021, arXiv 2104.07857).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.parallel.disk.blocks import BLOCK
from mainspring.parallel.disk.buffers import Arena, return_large_blocks
from mainspring.parallel.disk.prefetch import Prefetcher, Source
from mainspring.parallel.disk.stepping import Stepper, file_of
from mainspring.parallel.disk.store import Report, Store
from mainspring.parallel.disk.stretch import COMPUTE, MASTER
from mainspring.parallel.zero.placement import Shard, added_up

logger = logging.getLogger(__name__)

BUFFERS = 32
BUFFER_BYTES = 2 * BLOCK


class DiskPlacement:
    """Keeps what a rank has of a model in a folder; a `parallel.zero.Placement`.

    Args:
        folder: on a disk with room for 14 bytes a parameter (bf16) or 12 (fp32) over the ranks; each rank
            makes a folder of its own in it, removed by `close` or when the process ends in good order. What a
            killed one left is removed by the next that names `folder`.
        rank: of this process.
        buffers: how many buffers of `buffer_bytes` (a multiple of 2 MiB) are used to move things: at least 8.
        direct: bypass the page cache where the file system can.
        report: told once of what a person should know; None writes to the log.

    Raises:
        DiskError: the folder cannot be used; later, from every call: reading or writing failed. The states
            on disk are then of no use: start again from a checkpoint.
    """

    resident = False

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int = 0,
        buffers: int = BUFFERS,
        buffer_bytes: int = BUFFER_BYTES,
        direct: bool = True,
        report: Report | None = None,
    ) -> None:
        return_large_blocks()
        self.arena = Arena(buffers, buffer_bytes)
        self.store = Store(folder, rank=rank, direct=direct, report=report or logger.warning)
        self.prefetcher = Prefetcher(self.store, self.arena)
        self._stepper = Stepper(self.store, self.arena)
        self._shards: dict[str, Shard] = {}
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._optimizers: set[int] = set()

    def adopt(self, shard: Shard) -> None:
        """Write the masters away and let go of them."""
        self._shards[shard.name] = shard
        self.prefetcher.drop()
        self._stepper.adopt(shard)

    def before_gather(self, shard: Shard, out: Tensor) -> None:
        """Read the parameters, unless that has been done ahead."""
        self.store.require()
        self.prefetcher.fetch(self._source(shard), out)

    def prefetch(self, shard: Shard) -> None:
        """Start to read."""
        self.prefetcher.hint(self._source(shard))

    def keep(self, shard: Shard, gradient: Tensor, before: Tensor | None) -> Tensor:
        """Gradients stay in memory."""
        return added_up(gradient, before)

    def before_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """Carry out the step, stretch by stretch, and leave the optimizer no gradient."""
        self.prefetcher.drop()
        self._watch(optimizer)
        self._stepper.step(optimizer, shards)
        pieces = [piece for shard in shards for piece in shard.pieces]
        self._gradients = [(piece, piece.grad) for piece in pieces]
        for piece in pieces:
            piece.grad = None

    def after_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """Give the pieces their gradients back, and start to read for the next forward."""
        for piece, gradient in self._gradients:
            piece.grad = gradient
        self._gradients = []
        self.prefetcher.resume()

    def settle(self) -> None:
        """Nothing of the masters is in memory between steps."""

    @contextmanager
    def opened(
        self, shard: Shard, optimizer: torch.optim.Optimizer | None = None, *, write: bool = True
    ) -> Iterator[None]:
        """Hold one shard and, with `optimizer`, the states of its pieces in memory."""
        self.prefetcher.drop()
        with self._stepper.opened(shard, optimizer, write=write):
            yield

    def absorb(self, optimizer: torch.optim.Optimizer) -> None:
        """Write away states that were put into `optimizer`, by `load_state_dict` or one by one."""
        self._stepper.absorb(optimizer, list(self._shards.values()))

    def close(self) -> None:
        """Remove the files."""
        self.store.close()

    def _source(self, shard: Shard) -> Source:
        if file_of(shard, COMPUTE) in self.store:
            return Source(file_of(shard, COMPUTE), shard.numel, shard.compute_dtype)
        return Source(file_of(shard, MASTER), shard.numel, shard.dtype)

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer.state_dict()` find its states."""
        if id(optimizer) in self._optimizers:
            return
        self._optimizers.add(id(optimizer))
        optimizer.register_state_dict_post_hook(self._fill_state_dict)

    def _fill_state_dict(self, optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
        order = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = {id(p): number for number, p in enumerate(order)}
        states = dict(content["state"])
        for shard in self._shards.values():
            here = [p for p in shard.pieces if id(p) in numbers and p in optimizer.state]
            if here:
                with self.opened(shard, optimizer, write=False):
                    states.update((numbers[id(p)], copy.deepcopy(optimizer.state[p])) for p in here)
        content["state"] = states
