"""Saving beside training: the shards are copied at once, the disk is waited for in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch.distributed as dist

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint import io
from mainspring.train.checkpoint.boxes import Leaf
from mainspring.train.checkpoint.folder import sweep
from mainspring.train.checkpoint.staging import stage

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
        self._running: tuple[int, Future[Path], Thread | None] | None = None

    def start(
        self,
        step: int,
        tensors: Mapping[str, Leaf],
        run: Mapping[str, Any],
        replica: tuple[int, int] | None = None,
    ) -> Outcome | None:
        """Copy this rank's part of the tensors and begin to write it; returns the outcome of the save before,
        which it waits for.

        Args:
            step: of which the state is.
            tensors: this rank's; those that are neither sharded nor cut are the same on all replicas.
            run: what else the checkpoint says.
            replica: which replica this rank is, of how many (None: every rank is one).
        """
        before = self.wait()
        if replica is None:
            replica = (0, 1) if self.group is None else (dist.get_rank(self.group), self.group.size())
        staged = stage(tensors, *replica)
        future: Future[Path] = Future()

        def work() -> None:
            try:
                path = self._save(self.folder, step, staged, run, group=self.group, keep=self.keep)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(path)

        if any(one.tier is not None for one in staged.values()):
            # What a tier keeps is written from there, before the next step changes it: no second copy.
            work()
            self._running = step, future, None
            return before
        # A daemon: a run that fails while a save waits for a lost rank has to be able to end.
        thread = Thread(target=work, name=f"checkpoint-{step}", daemon=True)
        thread.start()
        self._running = step, future, thread
        return before

    def poll(self) -> Outcome | None:
        """The outcome of the save under way, if it has ended by now."""
        return self.wait() if self._running is not None and self._running[1].done() else None

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the save that is under way, if there is one.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds.
        """
        if self._running is None:
            return None
        step, future, thread = self._running
        try:
            outcome = Outcome(step, future.result(timeout), None)
        except CheckpointError as error:
            outcome = Outcome(step, None, error)
        # To its very end: an interpreter that exits while a daemon is in native code aborts the process.
        if thread is not None:
            thread.join()
        self._running = None
        return outcome
