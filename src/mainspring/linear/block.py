"""One worker's pass over a block of examples: sequential steps, and what is kept of them for the combiner.

This is the reference, in numpy; `kernel` is the same in C++.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mainspring.linear.combiners import Array, Ints, Tracker
from mainspring.linear.losses import LOSSES
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings

Order = npt.NDArray[np.int64]


@dataclass
class Weights:
    """w = scale * values, so that decaying all of them is one product."""

    values: Array
    scale: float = 1.0

    def whole(self) -> npt.NDArray[np.float64]:
        """w: [features] float64."""
        return self.values.astype(np.float64) * self.scale

    def settle(self) -> bool:
        """Carry the scale into the values before it costs them their digits; whether that was so."""
        small = self.scale < 1e-3
        if small:
            self.values *= self.scale
            self.scale = 1.0
        return small


@dataclass(frozen=True)
class Passed:
    """What a pass did: features it changed, the product of its decays, the sum of losses before each step."""

    touched: Ints
    decay: float
    loss: float


class Pass(Protocol):
    """A pass over the rows `order`, the first being example t of the run; `weights` change in place."""

    def __call__(
        self,
        rows: SparseRows,
        order: Order,
        t: int,
        settings: LinearSettings,
        weights: Weights,
        tracker: Tracker,
    ) -> Passed: ...


def reference(
    rows: SparseRows, order: Order, t: int, settings: LinearSettings, weights: Weights, tracker: Tracker
) -> Passed:
    """The pass, an example at a time."""
    loss = LOSSES[settings.loss]
    decay, total = 1.0, 0.0
    touched = np.zeros(rows.features, dtype=bool)
    for k, i in enumerate(order):
        indices, single = rows.row(int(i))
        values = single.astype(weights.values.dtype)
        y = float(rows.targets[i])
        margin = float(weights.values[indices] @ values) * weights.scale
        a = settings.step_size(t + k)
        shrink = 1.0 - a * settings.l2
        total += loss.value(margin, y)
        weights.scale *= shrink
        decay *= shrink
        weights.values[indices] -= a * loss.slope(margin, y) / weights.scale * values
        touched[indices] = True
        if tracker is not None:
            tracker.step(indices, values, a * loss.curvature(margin, y) / shrink)
    return Passed(np.flatnonzero(touched).astype(np.int32), decay, total)
