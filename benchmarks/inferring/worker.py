"""One engine in a process of its own: `python -m benchmarks.inferring.worker SIDE ENGINE MODEL FOLDER`.

Reads cases as lines of JSON and answers each with a line; waits in between without using the processor.

    {"lengths": [128, 40]}                        -> {"seconds": 0.1}
    {"batch": 8, "prompt": 128, "new": 64}        -> {"prefill": 0.4, "steps": [0.012, ...]}
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Engine(Protocol):
    """What a side offers for each name: reading texts, or writing."""

    def artefact(self) -> Path | None:
        """The file or folder that the engine loads; None: there is none."""
        ...


def texts(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of random tokens, the same for every engine."""
    import random

    draw = random.Random(sum(lengths))
    return [[draw.randrange(1000, 30000) for _ in range(length)] for length in lengths]


def size(path: Path | None) -> int:
    """Bytes of a file (with the weights beside an OpenVINO graph) or of a folder's files."""
    if path is None:
        return 0
    files = path.rglob("*") if path.is_dir() else (path, path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files if file.is_file())


def answer(engine: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Carry a case out."""
    if "lengths" in case:
        rows = texts(case["lengths"])
        started = time.perf_counter()
        engine.encode(rows)
        return {"seconds": time.perf_counter() - started}
    rows, new = texts([case["prompt"]] * case["batch"]), case["new"]
    if hasattr(engine, "whole"):
        took = []
        for count in (1, 1 + new):
            started = time.perf_counter()
            engine.whole(rows, count)
            took.append(time.perf_counter() - started)
        return {"prefill": took[0], "steps": [(took[1] - took[0]) / new] * new}
    started = time.perf_counter()
    tokens = engine.prefill(rows, new)
    prefill, steps = time.perf_counter() - started, []
    for _ in range(new):
        started = time.perf_counter()
        tokens = engine.step(tokens)
        steps.append(time.perf_counter() - started)
    return {"prefill": prefill, "steps": steps}


def main() -> None:
    side, name, model, folder = sys.argv[1:5]
    os.environ.update(OMP_NUM_THREADS="2", TOKENIZERS_PARALLELISM="false")
    started = time.perf_counter()
    engine = importlib.import_module(f"benchmarks.inferring.{side}").ENGINES[name](model, Path(folder))
    ready = {"load": time.perf_counter() - started, "bytes": size(engine.artefact())}
    # Whatever a library prints must not be taken for an answer.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(ready), file=out)
    for line in sys.stdin:
        try:
            done = answer(engine, json.loads(line))
        except Exception as error:
            done = {"error": f"{type(error).__name__}: {error}"[:300]}
        done["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(done), file=out)


if __name__ == "__main__":
    main()
