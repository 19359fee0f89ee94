"""Layers over ranks, one stage after another; micro-batches follow one another through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mainspring.comm import Counter
from mainspring.parallel.mesh import Axes
from mainspring.parallel.pipeline.gather import gather_stages
from mainspring.parallel.pipeline.keep import Kept, keep_stages
from mainspring.parallel.plan import Plan

if TYPE_CHECKING:
    from mainspring.parallel.pipeline.run import Pipeline
    from mainspring.parallel.strategy import Strategy

__all__ = ["Kept", "gather_stages", "keep_stages", "open_pipeline"]


def open_pipeline(
    model: nn.Module, kept: Kept, plan: Plan, axes: Axes, counter: Counter, strategy: Strategy
) -> Pipeline:
    """This rank's part in a pipeline; torch's schedules are imported only where there is one.

    Args:
        model: of which it has its stages.
        kept: what it has.
        plan: with the schedule.
        axes: with the ranks of the pipeline.
        counter: told what is sent.
        strategy: how the states of its stages are spread.
    """
    from mainspring.parallel.pipeline.run import Pipeline

    group = axes.group("pipeline")
    assert group is not None, "a pipeline of one rank"
    return Pipeline(model, kept, plan, group, counter, strategy)
