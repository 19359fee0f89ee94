"""Where events go: JSON lines that survive a crash, and TensorBoard."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mainspring.errors import require
from mainspring.train.events import Evaluated, Event, RunEnded, StepDone
from mainspring.train.files import replace_file


def kind(event: Event | type[Event]) -> str:
    """Name of an event's type in files.

    >>> from mainspring.train.events import CheckpointSaved
    >>> kind(CheckpointSaved)
    'checkpoint_saved'
    """
    name = event.__name__ if isinstance(event, type) else type(event).__name__
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def to_json(event: Event) -> str:
    """One line of JSON with the time of day; numbers that are not finite, which JSON lacks, become
    strings."""
    values = {"event": kind(event), "time": round(time.time(), 3), **dataclasses.asdict(event)}
    return json.dumps(_finite(values), ensure_ascii=False)


def read(path: str | Path) -> Iterator[dict[str, Any]]:
    """The events of a metrics file, each a dict with `event`; a last line cut off by a crash is left out."""
    try:
        lines = Path(path).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for line in lines:
        if line.endswith(b"\n"):
            yield json.loads(line)


class JsonLines:
    """Appends each event as a line, in one write, so that a crash costs at most the line under way.

    Args:
        path: the file; made where there is none.
        resumed: events after this step are dropped from the file, for the run does those steps again.
    """

    def __init__(self, path: str | Path, resumed: int = 0) -> None:
        path = Path(path)
        if path.exists():
            kept = [line for line in read(path) if line["step"] <= resumed]
            replace_file(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept).encode())
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, event: Event) -> None:
        """Write an event."""
        os.write(self._file, (to_json(event) + "\n").encode())
        if isinstance(event, RunEnded):
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class TensorBoard:
    """Writes the numbers of steps and evaluations as TensorBoard scalars.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, resumed: int = 0) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resumed + 1)

    def __call__(self, event: Event) -> None:
        """Write an event's numbers."""
        if isinstance(event, StepDone | Evaluated):
            for name, value in dataclasses.asdict(event).items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(f"{kind(event)}/{name}", value, event.step)
        if isinstance(event, RunEnded):
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
