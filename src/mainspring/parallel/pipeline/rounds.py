"""How many micro-batches a step may have."""

from __future__ import annotations

from mainspring.errors import PlanError
from mainspring.parallel.plan import Plan


def fits(plan: Plan, micro_batches: int) -> bool:
    """Whether the plan's schedule can take so many micro-batches.

    1F1B fills all ranks before it goes on; interleaving goes in rounds of about `pipeline` micro-batches, all
    rounds alike.

    >>> [m for m in range(1, 9) if fits(Plan(pipeline=3, pipeline_schedule="zero_bubble"), m)]
    [1, 2, 3, 4, 5, 6, 8]
    """
    if plan.pipeline == 1 or plan.pipeline_schedule == "gpipe":
        return True
    if plan.pipeline_schedule == "1f1b":
        return micro_batches >= plan.pipeline
    return micro_batches % max(1, micro_batches // plan.pipeline) == 0


def check_micro_batches(plan: Plan, micro_batches: int) -> None:
    """Refuse a number of micro-batches that the plan's schedule cannot take.

    Raises:
        PlanError: names the nearest numbers that it can.
    """
    if fits(plan, micro_batches):
        return
    near = [m for m in range(micro_batches, 0, -1) if fits(plan, m)][:1]
    near += [next(m for m in range(micro_batches, 2 * plan.pipeline * micro_batches) if fits(plan, m))]
    raise PlanError(
        f'pipeline_schedule = "{plan.pipeline_schedule}" over {plan.pipeline} ranks cannot take '
        f"{micro_batches} micro-batches a step; nearest: {' and '.join(map(str, near))}, or use gpipe"
    )
