"""What a linear model is trained with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mainspring.config import Section
from mainspring.linear.losses import LossName
from mainspring.linear.steps import ScheduleName, Steps

CombinerName = Literal["exact", "frequent", "projected", "sum", "mean"]


class LinearSettings(Section):
    """Settings of `linear.fit`; a run is a pure function of them, the data and the number of workers."""

    loss: LossName = "logistic"
    rate: float = Field(default=0.1, gt=0)
    """Step size at the first example."""
    schedule: ScheduleName = "inverse_sqrt"
    """How the step size falls: rate, rate / (1 + decay t), rate / sqrt(1 + decay t) at example t."""
    decay: float = Field(default=1e-4, ge=0)
    l2: float = Field(default=0.0, ge=0)
    """Weight of ||w||^2 / 2 in the loss of each example."""
    epochs: int = Field(default=1, ge=1)
    seed: int = 0
    workers: int = Field(default=1, ge=1)
    combiner: CombinerName = "frequent"
    """How results of workers become one: `exact` over all features, `frequent` over the commonest,
    `projected` on random directions; `sum` and `mean` of what workers changed know no curvature."""
    rank: int = Field(default=16, ge=1, le=64)
    """Features of `frequent`, directions of `projected`."""
    block: int = Field(default=4096, ge=1)
    """Examples a worker takes between two combinations."""

    @property
    def steps(self) -> Steps:
        """What a pass needs of them."""
        return Steps(self.loss, self.rate, self.schedule, self.decay, self.l2)
