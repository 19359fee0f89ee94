"""A worker of a linear training: a process that passes over the blocks it is told of.

    python -m mainspring.linear.worker FOLDER NUMBER [portable]

Tasks come as lines of JSON on its input, answers go to its output; arrays are mapped from the folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.config import parse
from mainspring.linear.block import Weights, reference
from mainspring.linear.combiners import Ints, Projection, Subset, Tracker, places
from mainspring.linear.kernel import compiled_or_reference
from mainspring.linear.merge import gained
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings


@dataclass(frozen=True)
class Task:
    """A block: examples first to last of the order, the first being example t of the run, on weights of this
    scale. `changed` says how many features each worker changed in the round before; None: all are new."""

    first: int
    last: int
    t: int
    scale: float
    changed: Sequence[int] | None
    seed: int


@dataclass(frozen=True)
class Done:
    """How many features a block touched, the product of its decays, the sum of its losses."""

    touched: int
    decay: float
    loss: float


def mapped(path: Path) -> Any:
    # An empty file cannot be mapped.
    return np.load(path, mmap_mode="r+" if path.stem != "features" else None)


def tracker_of(arrays: Mapping[str, Any], settings: LinearSettings, worker: int) -> Tracker:
    if not worker or "change" not in arrays:
        return None  # the first worker's block begins where the round does
    change = arrays["change"][worker]
    if settings.combiner == "projected":
        return Projection(change, seed=0)
    return Subset(arrays["features"], places(arrays["features"], len(arrays["weights"])), change)


def serve(folder: Path, number: int, *, portable: bool) -> None:
    """A worker: a task in, a pass, what changed out, until its input ends."""
    settings = parse(LinearSettings, json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    run = reference if portable else compiled_or_reference()[0]
    arrays = {path.stem: mapped(path) for path in folder.glob("*.npy")}
    shared = arrays["weights"]
    examples = {name: arrays[name] for name in ("indptr", "indices", "values", "targets")}
    rows = SparseRows(**examples, features=len(shared))
    tracker = tracker_of(arrays, settings, number)
    local = np.array(shared)
    touched: Ints = np.empty(0, dtype=np.int32)
    for line in sys.stdin:
        task = Task(**json.loads(line))
        if task.changed is None:
            local[:] = shared
        for worker, found in enumerate(task.changed or ()):
            there = arrays["touched"][worker, :found]
            local[there] = shared[there]
        if tracker is not None:
            tracker.clear(touched)
        if isinstance(tracker, Projection):
            tracker.seed = task.seed
        weights = Weights(local, task.scale)
        passed = run(rows, arrays["order"][task.first : task.last], task.t, settings, weights, tracker)
        touched = passed.touched
        arrays["touched"][number, : len(touched)] = touched
        arrays["gained"][number, : len(touched)] = gained(shared, weights, touched)
        sys.stdout.write(json.dumps(asdict(Done(len(touched), passed.decay, passed.loss))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), portable=sys.argv[3:] == ["portable"])
