"""The orders of ranks: complete, possible, and as long as the formulas say."""

from __future__ import annotations

import pytest

from mainspring.errors import PlanError
from mainspring.parallel import Plan
from mainspring.parallel.pipedream.schedule import Op
from mainspring.parallel.pipeline.orders import orders
from mainspring.parallel.pipeline.rounds import check_micro_batches, fits
from mainspring.planner.ticks import simulate

PLANS = [
    {"pipeline_schedule": "gpipe"},
    {},
    {"pipeline_schedule": "interleaved", "pipeline_chunks": 2},
    {"pipeline_schedule": "interleaved", "pipeline_chunks": 3},
    {"pipeline_schedule": "zero_bubble"},
    {"pipeline_schedule": "zero_bubble", "pipeline_chunks": 2},
]
SIZES = [(2, 2), (2, 6), (3, 9), (4, 4), (4, 8)]


def seconds(plan: Plan):
    """One tick a forward, two a backward, shared out over a rank's chunks."""
    whole = 1.0 if plan.pipeline_schedule == "zero_bubble" else 2.0
    return lambda op: (whole if op.kind == "B" else 1.0) / plan.pipeline_chunks


@pytest.mark.parametrize("ranks, micro_batches", SIZES)
@pytest.mark.parametrize("fields", PLANS, ids=str)
def test_everything_is_done_once_where_its_stage_is(fields, ranks, micro_batches):
    plan = Plan(pipeline=ranks, **fields)
    found = orders(plan, micro_batches)
    split = plan.pipeline_schedule == "zero_bubble"
    for rank, ops in enumerate(found):
        stages = range(rank, ranks * plan.pipeline_chunks, ranks)
        want = {Op(k, m, s) for k in ("FBW" if split else "FB") for m in range(micro_batches) for s in stages}
        assert len(ops) == len(want) and set(ops) == want
        for (
            stage
        ) in stages:  # a stage's last backward is its last micro-batch's: what is shared goes back then
            assert [op.batch for op in ops if op[::2] == ("B", stage)] == list(range(micro_batches))
    simulate(found, seconds(plan))  # raises where ranks would wait for each other for ever


@pytest.mark.parametrize("ranks, micro_batches", SIZES)
def test_the_bubble_is_the_formulas(ranks, micro_batches):
    """(p - 1) / (m + p - 1), with v chunks (p - 1) / (v m + p - 1); less with a split backward."""
    idle = {}
    for fields in PLANS:
        plan = Plan(pipeline=ranks, **fields)
        idle[plan.pipeline_schedule, plan.pipeline_chunks] = simulate(
            orders(plan, micro_batches), seconds(plan)
        ).idle
    for schedule in ("gpipe", "1f1b"):
        assert idle[schedule, 1] == pytest.approx((ranks - 1) / (micro_batches + ranks - 1))
    for chunks in (2, 3):
        want = (ranks - 1) / (chunks * micro_batches + ranks - 1)
        assert idle["interleaved", chunks] == pytest.approx(want)
    # Qi et al. 2023, table 1: p - 1 times F + B - W in place of p - 1 times F + B + W.
    assert idle["zero_bubble", 1] == pytest.approx((ranks - 1) / (3 * micro_batches + ranks - 1))
    assert idle["zero_bubble", 2] < idle["interleaved", 2]


def test_1f1b_keeps_as_many_micro_batches_as_there_are_ranks_after_it():
    held = []
    for ops in orders(Plan(pipeline=4), 8):
        now = most = 0
        for op in ops:
            now += 1 if op.kind == "F" else -1
            most = max(most, now)
        held.append(most)
    assert held == [4, 3, 2, 1]


def test_numbers_of_micro_batches_that_do_not_fit_are_refused_with_the_nearest():
    with pytest.raises(PlanError, match="3 micro-batches a step; nearest: 4"):
        check_micro_batches(Plan(pipeline=4), 3)
    plan = Plan(pipeline=4, pipeline_schedule="zero_bubble")
    assert not fits(plan, 9)
    with pytest.raises(PlanError, match="nearest: 8 and 10"):
        check_micro_batches(plan, 9)
    for count in range(1, 20):  # the rule is the schedule's own
        if fits(plan, count):
            orders(plan, count)
        else:
            with pytest.raises(ValueError):
                orders(plan, count)
