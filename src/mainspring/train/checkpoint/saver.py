"""Saving beside training: the shards are copied at once, the disk is waited for in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint import io
from mainspring.train.checkpoint.folder import sweep

Save = Callable[..., Path]


@dataclass(frozen=True)
class Outcome:
    """How a save ended."""

    step: int
    path: Path | None
    """The checkpoint, or None if the save failed."""
    error: CheckpointError | None
    """Why it failed; the previous checkpoints are as they were."""


class Saver:
    """Writes the checkpoints of a run one at a time in a thread of its own, with a process group of its own.

    Args:
        folder: where the run keeps its checkpoints; what killed saves left there is removed.
        keep: how many complete checkpoints to keep (0: all).
        save: the function that writes (the tests put faults here).

    Every rank makes one and calls the same methods in the same order.
    """

    def __init__(self, folder: Path, keep: int, *, save: Save = io.save) -> None:
        self.folder = folder
        self.keep = keep
        self._save = save
        many = dist.is_initialized() and dist.get_world_size() > 1
        self.group: dist.ProcessGroup | None = dist.new_group(backend="gloo") if many else None
        if self.group is None or dist.get_rank() == 0:
            sweep(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: tuple[int, Future[Path]] | None = None

    def start(self, step: int, tensors: Mapping[str, Tensor], run: Mapping[str, Any]) -> Outcome | None:
        """Copy the tensors and begin to write them; returns the outcome of the save before, which it waits
        for."""
        before = self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))
        staged = stager.stage(dict(tensors))
        assert isinstance(staged, dict)

        def work() -> Path:
            try:
                return self._save(self.folder, step, staged, run, group=self.group, keep=self.keep)
            finally:
                stager.close()

        self._running = step, self._thread.submit(work)
        return before

    def wait(self) -> Outcome | None:
        """Wait for the save that is under way, if there is one."""
        if self._running is None:
            return None
        (step, future), self._running = self._running, None
        try:
            return Outcome(step, future.result(), None)
        except CheckpointError as error:
            return Outcome(step, None, error)

    def close(self) -> Outcome | None:
        """Wait for the last save and end the thread."""
        last = self.wait()
        self._thread.shutdown()
        return last
