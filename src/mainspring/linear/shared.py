"""What a training and its workers tell one another, and the arrays that they map together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.linear.combiners import Projection, Subset, Tracker, places
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
