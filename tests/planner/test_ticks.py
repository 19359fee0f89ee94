"""Schedules on paper against what their papers say of them."""

from __future__ import annotations

from itertools import product

import pytest

from mainspring.errors import PlanError
from mainspring.parallel.pipedream import Layout, Op, order, orders
from mainspring.planner.ticks import Event, simulate, staleness, versions_alive


def equal_passes(op: Op) -> float:
    return 0.0 if op.kind == "U" else 1.0


@pytest.mark.parametrize("stages", [1, 2, 4, 6])
def test_staleness_and_versions_of_a_straight_pipeline(stages: int) -> None:
    layout = Layout((1,) * stages)
    for stage in range(stages):
        ops = order(layout, stage, "stashing", 20)
        ages = staleness(ops)
        assert set(list(ages.values())[stages:]) == {stages - 1 - stage}
        assert versions_alive(ops) == stages - stage
        assert layout.warmup(stage) == stages - 1 - stage


@pytest.mark.parametrize(("stages", "batches"), [(2, 4), (4, 8), (4, 4), (3, 12)])
@pytest.mark.parametrize("semantics", ["flush", "gpipe"])
def test_bubble_of_a_synchronous_pipeline(stages: int, batches: int, semantics: str) -> None:
    made = orders(Layout((1,) * stages), semantics, batches, batches)  # type: ignore[arg-type]
    timeline = simulate(made, equal_passes)
    assert timeline.bubble == pytest.approx((stages - 1) / batches)
    assert timeline.idle == pytest.approx((stages - 1) / (batches + stages - 1))
    assert timeline.span == 2 * (batches + stages - 1)


def test_an_asynchronous_pipeline_has_no_bubble_once_it_is_full() -> None:
    timeline = simulate(orders(Layout((1, 1, 1, 1)), "stashing", 40))
    assert timeline.seconds_per_minibatch() == 3.0  # one tick forward, two backward
    flushed = simulate(orders(Layout((1, 1, 1, 1)), "flush", 40, 4))
    assert flushed.span == pytest.approx(10 * 3 * (4 + 3))


def test_every_small_layout_ends() -> None:
    """1F1B-RR with its warm-up counts never deadlocks, whatever the replicas."""
    for stages in (1, 2, 3, 4):
        for replicas in product((1, 2, 3, 4), repeat=stages):
            layout = Layout(replicas)
            timeline = simulate(orders(layout, "stashing", 24))
            assert len({(e.op.kind, e.op.batch) for e in timeline.events if e.op.stage == 0}) >= 2 * 24
            assert layout.warmup(0) + 1 == layout.noam


def test_replicas_share_the_work() -> None:
    layout = Layout((3, 1))
    slow_first = simulate(
        orders(layout, "stashing", 60), lambda op: (3.0 if op.stage == 0 else 1.0) if op.kind != "U" else 0.0
    )
    assert slow_first.seconds_per_minibatch() == pytest.approx(2.0)
    assert all(e.op.batch % 3 == e.rank for e in slow_first.events if e.rank < 3 and e.op.kind != "U")


def test_what_is_under_way_delays_the_next_stage_alone() -> None:
    made = orders(Layout((1, 1)), "stashing", 1)
    events = simulate(made, equal_passes, lambda op: 0.5).events
    assert [(e.op.kind, e.op.stage, e.start) for e in events if e.op.kind != "U"] == [
        ("F", 0, 0.0),
        ("F", 1, 1.5),
        ("B", 1, 2.5),
        ("B", 0, 4.0),
    ]


def test_a_link_carries_one_message_after_the_other() -> None:
    made = [[Op("F", i, 0) for i in range(4)], [Op("F", i, 1) for i in range(4)]]
    events = simulate(made, equal_passes, lambda op: 3.0).events
    assert [e.start for e in events if e.rank == 1] == [4.0, 7.0, 10.0, 13.0]


def test_a_split_backward_and_interleaved_stages() -> None:
    """Other schedules come as lists of ops: here two chunks a rank, weights' gradients last."""
    first = [Op("F", 0, 0), Op("F", 0, 2), Op("B", 0, 2), Op("B", 0, 0), Op("W", 0, 2), Op("W", 0, 0)]
    second = [Op("F", 0, 1), Op("B", 0, 1), Op("W", 0, 1)]
    timeline = simulate([first, second], lambda op: 1.0)
    assert timeline.events[-1].end == timeline.span == 8
    assert Event(1, Op("B", 0, 1), 4.0, 5.0) in timeline.events


def test_a_schedule_that_never_ends_says_who_waits_for_what() -> None:
    with pytest.raises(PlanError, match="rank 0 for what B0 of stage 0 needs; rank 1 for what F1 of stage 1"):
        simulate([[Op("F", 0, 0), Op("B", 0, 0), Op("F", 1, 0)], [Op("F", 1, 1), Op("B", 0, 1)]])
