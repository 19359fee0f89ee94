"""How an example changes the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mainspring.linear.losses import LossName

ScheduleName = Literal["constant", "inverse", "inverse_sqrt"]


@dataclass(frozen=True)
class Steps:
    """What of a training's settings a pass needs; `LinearSettings` says what they are."""

    loss: LossName
    rate: float
    schedule: ScheduleName
    decay: float
    l2: float

    def size(self, t: int) -> float:
        """Of the step of example t, from 0."""
        if self.schedule == "constant":
            return self.rate
        slower = 1.0 + self.decay * t
        return self.rate / slower if self.schedule == "inverse" else self.rate / float(slower**0.5)
