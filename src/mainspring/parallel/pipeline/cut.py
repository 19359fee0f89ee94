"""Where a model is cut into stages.

Stage s of p x c (p ranks with c chunks each) is held by rank s mod p (Narayanan et al. 2021, arXiv
2104.04473, section 2.2: with several chunks a rank is visited several times).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from mainspring.errors import PlanError
from mainspring.nn.part import Part
from mainspring.parallel.plan import Plan


def parts(costs: Sequence[float], plan: Plan) -> list[Part]:
    """The blocks of every stage of `plan`, in the order of stages.

    Args:
        costs: of each block of the model.
        plan: with its `pipeline`, `pipeline_chunks` and `pipeline_blocks`.

    Raises:
        PlanError: there are fewer blocks than stages, or the plan's own cut does not fit the model.
    """
    stages, total = plan.pipeline * plan.pipeline_chunks, len(costs)
    if total < stages:
        raise PlanError(
            f"the model has {total} blocks and the plan {stages} stages (pipeline = {plan.pipeline}, "
            f"pipeline_chunks = {plan.pipeline_chunks}); every stage needs one: at most pipeline = "
            f"{max(total // plan.pipeline_chunks, 1)}"
        )
    blocks = plan.pipeline_blocks or balance(costs, stages)
    if sum(blocks) != total:
        raise PlanError(
            f"pipeline_blocks = {list(blocks)} are {sum(blocks)} blocks and the model has {total}; "
            f"balanced would be {list(balance(costs, stages))}"
        )
    return [Part(start, stop, total) for start, stop in pairwise([0, *accumulate(blocks)])]


def balance(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """Blocks of each stage such that the costliest costs least, and of those cuts the most even one.

    >>> balance([1, 1, 1, 1, 1, 2], 3)
    (2, 2, 2)
    >>> balance([1, 1, 1, 1, 4], 2)
    (4, 1)
    """
    ends = [0.0, *accumulate(costs)]
    count = len(costs)
    # best[stop]: (the costliest stage, sum of squares, first blocks of the stages) of blocks before `stop`.
    best: list[tuple[float, float, tuple[int, ...]] | None] = [
        (ends[stop], ends[stop] ** 2, (0,)) if stop else None for stop in range(count + 1)
    ]
    for stage in range(1, stages):
        found: list[tuple[float, float, tuple[int, ...]] | None] = [None] * (count + 1)
        for stop in range(stage + 1, count + 1):
            options = []
            for start in range(stage, stop):
                before, cost = best[start], ends[stop] - ends[start]
                if before is not None:
                    options.append((max(before[0], cost), before[1] + cost**2, (*before[2], start)))
            found[stop] = min(options)
        best = found
    chosen = best[count]
    assert chosen is not None, "more stages than blocks"
    return tuple(stop - start for start, stop in pairwise([*chosen[2], count]))
