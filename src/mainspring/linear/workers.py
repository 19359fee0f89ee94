"""Processes that pass over blocks at the same time. Everything large lies in files that they map together.

The parent says which examples are whose and merges; workers answer when their block is done, in JSON
lines. A worker that dies ends the training with its number and exit code; no file outlives the training.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from mainspring.errors import RunFault
from mainspring.linear.block import Order, Weights
from mainspring.linear.combiners import Ints, Projection
from mainspring.linear.merge import Report, merge
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings
from mainspring.linear.shared import Done, Task, mapped, tracker_of


class Workers:
    """`settings.workers` processes over the same rows; a context that ends them."""

    def __init__(
        self, rows: SparseRows, weights: Weights, settings: LinearSettings, features: Ints, *, portable: bool
    ) -> None:
        self.settings, self.count = settings, settings.workers
        self.folder = Path(tempfile.mkdtemp(prefix="mainspring-linear-", dir=_memory()))
        self.arrays = _share(self.folder, rows, weights, settings, features)
        self.weights = Weights(self.arrays["weights"], weights.scale)
        self._before = np.array(self.weights.values)
        self._trackers = [tracker_of(self.arrays, settings, w) for w in range(self.count)]
        self._changed: list[int] | None = [0] * self.count
        self._processes = [self._start(number, portable) for number in range(self.count)]

    def _start(self, number: int, portable: bool) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mainspring.linear.worker", str(self.folder), str(number)]
        return subprocess.Popen(
            [*command, "portable"] if portable else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is the parent's to act on
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        for process in self._processes:
            if kind is not None:
                process.kill()
            process.communicate()  # its input ends, and so does it
        shutil.rmtree(self.folder, ignore_errors=True)

    def order(self, order: Order) -> None:
        """Take examples in this order from now on."""
        self.arrays["order"][:] = order

    def round(self, first: int, last: int, t: int, seed: int) -> float:
        """Pass over examples first to last of the order, a share each, and merge: the sum of their losses."""
        edges = np.linspace(first, last, self.count + 1).round().astype(int).tolist()
        for number in range(self.count):
            start, seen = edges[number], t + edges[number] - first
            task = Task(start, edges[number + 1], seen, self.weights.scale, self._changed, seed + number)
            self._send(number, json.dumps(asdict(task)))
        results = [self._receive(number) for number in range(self.count)]
        reports = []
        for number, (done, tracker) in enumerate(zip(results, self._trackers, strict=True)):
            if isinstance(tracker, Projection):
                tracker.seed = seed + number
            touched = self.arrays["touched"][number, : done.touched]
            added = self.arrays["gained"][number, : done.touched]
            reports.append(Report(touched, added, done.decay, tracker))
        self._changed = [done.touched for done in results]
        merge(self.weights, self._before, reports, self.settings)
        if self.weights.settle():
            self._before[:] = self.weights.values
            self._changed = None
        return sum(done.loss for done in results)

    def _send(self, number: int, line: str) -> None:
        pipe = self._processes[number].stdin
        assert pipe is not None
        try:
            pipe.write(line + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._lost(number) from None

    def _receive(self, number: int) -> Done:
        pipe = self._processes[number].stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise self._lost(number)
        return Done(**json.loads(line))

    def _lost(self, number: int) -> RunFault:
        code = self._processes[number].wait()
        return RunFault(
            f"worker {number} of {self.count} ended with exit code {code} in the middle of a block; what was "
            "saved before this training is as it was: train again from there"
        )


def _memory() -> str | None:
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() else None


def _share(
    folder: Path, rows: SparseRows, weights: Weights, settings: LinearSettings, features: Ints
) -> dict[str, Any]:
    workers, total = settings.workers, rows.features
    given: dict[str, Any] = {
        "indptr": rows.indptr,
        "indices": rows.indices,
        "values": rows.values,
        "targets": rows.targets,
        "features": features,
        "weights": weights.values.astype(np.float32),
        "order": np.zeros(len(rows), dtype=np.int64),
        "touched": np.zeros((workers, total), dtype=np.int32),
        "gained": np.zeros((workers, total), dtype=np.float64),
    }
    if settings.combiner == "projected":
        given["change"] = np.zeros((workers, total, settings.rank), dtype=np.float32)
    elif len(features):
        given["change"] = np.zeros((workers, len(features), len(features)), dtype=np.float32)
    for name, array in given.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    return {name: mapped(folder / f"{name}.npy") for name in given}
