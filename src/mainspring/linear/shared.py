"""What a training and its workers tell one another, and memory that they share."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Task:
    """A block: examples first to last of the order, the first being example t of the run, on weights of this
    scale. `changed`: how many lines were changed in the round before; None: all."""

    first: int
    last: int
    t: int
    scale: float
    changed: int | None
    seed: int


@dataclass(frozen=True)
class Done:
    """How many lines a block touched, the scale of the weights at its end, the product of its decays, the sum
    of its losses."""

    lines: int
    scale: float
    decay: float
    loss: float


def dealt(first: int, last: int, costs: Sequence[float]) -> list[int]:
    """Edges between shares of examples that workers pass over in the same time.

    Args:
        first, last: of the examples.
        costs: of an example, to each worker.

    >>> dealt(0, 90, [1.0, 2.0, 2.0])
    [0, 45, 68, 90]
    """
    ends = np.cumsum([0.0, *(1 / cost for cost in costs)])
    edges: list[int] = (first + (last - first) * ends / ends[-1]).round().astype(int).tolist()
    return edges


def shared(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Zeros that processes forked from now on share; they are gone with the last of them."""
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(tuple(shape))
