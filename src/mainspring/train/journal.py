"""Journal: what a run tells - to whoever listens, and to its own files - and how its saves ended."""

from __future__ import annotations

import platform
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist

import mainspring
from mainspring.errors import CheckpointError
from mainspring.train import checkpoint, events
from mainspring.train.memory import peak_memory
from mainspring.train.step import Outcome


class EventFile(Protocol):
    """A file that takes events; `sinks.JsonLines` and `sinks.TensorBoard`."""

    def __call__(self, event: events.Event) -> None:
        """Write an event."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Journal:
    """Hands on the events of a run; call it with each.

    Args:
        sinks: who listens.
        main: whether this rank tells anything.
    """

    def __init__(self, sinks: Sequence[events.Sink], *, main: bool) -> None:
        self.sinks: list[events.Sink] = list(sinks) if main else []
        self._files: list[EventFile] = []
        self._recent: deque[float] = deque(maxlen=50)

    def keep(self, *files: EventFile) -> None:
        """Write all that follows to files too."""
        self._files.extend(files)

    def __call__(self, event: events.Event) -> None:
        """Tell an event."""
        told: list[events.Sink] = [*self._files, *self.sinks]
        for sink in told:
            sink(event)

    def step_done(
        self,
        step: int,
        outcome: Outcome,
        *,
        steps: int,
        every: int,
        seconds: float,
        tokens: int,
        lr: float,
        device: torch.device,
        mfu: float = 0.0,
    ) -> None:
        """Tell a step, if it is one of `every` or the last; all count for the time that is left."""
        self._recent.append(seconds)
        if step % every and step != steps:
            return
        self(
            events.StepDone(
                step,
                loss=outcome.loss,
                tokens=tokens,
                seconds=seconds,
                tokens_per_second=tokens / seconds,
                mfu=mfu,
                lr=lr,
                grad_norm=outcome.grad_norm,
                eta_seconds=(steps - step) * statistics.median(self._recent),
                memory_bytes=peak_memory(device),
                losses=outcome.losses,
            )
        )

    def settle(self, outcome: checkpoint.Outcome | None) -> None:
        """Tell how a save ended. One that failed does not end the run: the next may succeed."""
        if outcome is None:
            return
        if outcome.error is None:
            self(events.CheckpointSaved(outcome.step, str(outcome.path)))
        else:
            message = f"checkpoint not saved: {outcome.error}; training goes on"
            self(events.Warned(outcome.step, message))

    def finish_saving(self, saver: checkpoint.Saver) -> None:
        """Wait for the last save and tell how it ended.

        Raises:
            CheckpointError: it failed.
        """
        outcome = saver.wait()
        self.settle(outcome)
        if outcome is not None and outcome.error is not None:
            raise CheckpointError(f"the last checkpoint was not written: {outcome.error}") from outcome.error

    def end(self, event: events.RunEnded) -> None:
        """Tell the end, close the files, and wait for the other ranks unless the run has failed."""
        self(event)
        for file in self._files:
            file.close()
        self._files = []
        if event.status != "failed" and dist.is_initialized():
            dist.barrier()


def libraries() -> dict[str, str]:
    """What a run is made with, for its checkpoints."""
    return {
        "mainspring": mainspring.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
