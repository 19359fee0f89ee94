"""Losses of a linear model: what one example costs at margin m = w.x, and its two derivatives by m.

A target is any number for least squares and -1 or +1 for the others. The second derivative is what a combiner
needs; where the first has a kink (hinge), it is that of the side on which the margin lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

LossName = Literal["least_squares", "logistic", "hinge", "squared_hinge"]


@dataclass(frozen=True)
class Loss:
    """value(m, y), slope = d value / dm, curvature = d slope / dm; `code` is its number in the kernel."""

    code: int
    value: Callable[[float, float], float]
    slope: Callable[[float, float], float]
    curvature: Callable[[float, float], float]

    @property
    def classifies(self) -> bool:
        """Whether targets are -1 and +1."""
        return self.code != 0


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


LOSSES: dict[LossName, Loss] = {
    "least_squares": Loss(0, lambda m, y: 0.5 * (m - y) ** 2, lambda m, y: m - y, lambda m, y: 1.0),
    "logistic": Loss(
        1,
        lambda m, y: _softplus(-y * m),
        lambda m, y: -y * _sigmoid(-y * m),
        lambda m, y: _sigmoid(m) * _sigmoid(-m),
    ),
    "hinge": Loss(
        2, lambda m, y: max(0.0, 1.0 - y * m), lambda m, y: -y if y * m < 1 else 0.0, lambda m, y: 0.0
    ),
    "squared_hinge": Loss(
        3,
        lambda m, y: 0.5 * max(0.0, 1.0 - y * m) ** 2,
        lambda m, y: m - y if y * m < 1 else 0.0,  # y * y = 1
        lambda m, y: 1.0 if y * m < 1 else 0.0,
    ),
}
assert set(LOSSES) == set(get_args(LossName))
