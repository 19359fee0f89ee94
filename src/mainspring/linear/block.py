"""One worker's pass over a block of examples: sequential steps, and what is kept of them for the combiner.

This is the reference, in numpy; `kernel` is the same in C++.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mainspring.linear.combiners import Array, Subset, Tracker
from mainspring.linear.lines import LINE, Ints, features_of, line_count
from mainspring.linear.losses import LOSSES
from mainspring.linear.rows import SparseRows
from mainspring.linear.steps import Steps

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
    """What a pass did: lines in which it changed features, the product of its decays, the sum of losses
    before each step."""

    lines: Ints
    decay: float
    loss: float


class Loops(Protocol):
    """What goes over examples and weights."""

    def pass_over(
        self, rows: SparseRows, order: Order, t: int, steps: Steps, weights: Weights, tracker: Tracker
    ) -> Passed:
        """A step for each of the rows `order`, the first being example t of the run; `weights` change in
        place."""

    def counts(self, rows: SparseRows) -> npt.NDArray[np.int64]:
        """In how many rows each feature stands: [features]."""

    def prepare(self, tracker: Subset, rows: SparseRows) -> None:
        """Make what `pass_over` wants to have of a tracker and all rows, so that it need not."""

    def add(self, values: Array, lines: Ints, ends: Array, begins: Array, factor: float) -> None:
        """`values += factor * (ends - begins)` on lines; all [features]."""

    def copy(self, to: Array, lines: Ints, source: Array) -> None:
        """`to = source` on lines."""


class Portable:
    """`Loops` in numpy, an example at a time; in the precision of the weights."""

    def pass_over(
        self, rows: SparseRows, order: Order, t: int, steps: Steps, weights: Weights, tracker: Tracker
    ) -> Passed:
        """See `Loops`, here and below."""
        loss = LOSSES[steps.loss]
        decay, total = 1.0, 0.0
        marks = np.zeros(line_count(rows.features), dtype=bool)
        for k, i in enumerate(order):
            indices, single = rows.row(int(i))
            values = single.astype(weights.values.dtype)
            y = float(rows.targets[i])
            margin = float(weights.values[indices] @ values) * weights.scale
            a = steps.size(t + k)
            shrink = 1.0 - a * steps.l2
            total += loss.value(margin, y)
            weights.scale *= shrink
            decay *= shrink
            weights.values[indices] -= a * loss.slope(margin, y) / weights.scale * values
            marks[indices // LINE] = True
            if tracker is not None:
                tracker.step(indices, values, a * loss.curvature(margin, y) / shrink)
        return Passed(np.flatnonzero(marks).astype(np.int32), decay, total)

    def counts(self, rows: SparseRows) -> npt.NDArray[np.int64]:
        return rows.counts()

    def prepare(self, tracker: Subset, rows: SparseRows) -> None:
        pass  # the portable pass looks features up in `tracker.slots`

    def add(self, values: Array, lines: Ints, ends: Array, begins: Array, factor: float) -> None:
        here = features_of(lines, len(values))
        values[here] += factor * (ends[here].astype(np.float64) - begins[here])

    def copy(self, to: Array, lines: Ints, source: Array) -> None:
        here = features_of(lines, len(to))
        to[here] = source[here]
