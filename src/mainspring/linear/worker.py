"""A worker of a linear training: a process that passes over the blocks it is told of.

    python -m mainspring.linear.worker FOLDER NUMBER [portable]

Tasks come as lines of JSON on its input, answers go to its output; arrays are mapped from the folder.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mainspring.config import parse
from mainspring.linear.block import Weights, reference
from mainspring.linear.combiners import Ints, Projection
from mainspring.linear.kernel import compiled_or_reference
from mainspring.linear.merge import gained
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings
from mainspring.linear.shared import Done, Task, mapped, tracker_of


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
