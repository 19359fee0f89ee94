"""Where models are cut: as even as any cut is, and refused where there is none."""

from __future__ import annotations

import itertools
import random

import pytest

from mainspring.errors import ConfigError, PlanError
from mainspring.nn import Transformer, TransformerConfig
from mainspring.parallel import Plan
from mainspring.parallel.pipeline.cut import balance, parts
from mainspring.planner.batch import split_batch


def test_no_cut_is_more_even() -> None:
    draw = random.Random(0)
    for _ in range(60):
        costs = [draw.choice([1, 1, 2, 3, 7.5]) for _ in range(draw.randint(1, 8))]
        stages = draw.randint(1, len(costs))
        cuts = itertools.combinations(range(1, len(costs)), stages - 1)
        sums = [[sum(costs[a:b]) for a, b in itertools.pairwise([0, *cut, len(costs)])] for cut in cuts]
        best = min((max(each), sum(s * s for s in each)) for each in sums)
        ends = list(itertools.accumulate(balance(costs, stages), initial=0))
        mine = [sum(costs[a:b]) for a, b in itertools.pairwise(ends)]
        assert len(mine) == stages and min(balance(costs, stages)) >= 1
        assert (max(mine), sum(s * s for s in mine)) == pytest.approx(best)


def test_a_wide_head_takes_blocks_off_the_last_stage() -> None:
    shape = {"d_model": 64, "n_heads": 2, "n_layers": 12, "d_ff": 256}
    narrow = Transformer(TransformerConfig(vocab_size=8, **shape))
    wide = Transformer(TransformerConfig(vocab_size=3 * 12 * 64, **shape))  # as much as three layers
    stages = [part.stop - part.start for part in parts(narrow.costs(), Plan(pipeline=3))]
    assert stages == [4, 4, 4]
    assert [p.stop - p.start for p in parts(wide.costs(), Plan(pipeline=3))] == [5, 5, 2]
    given = Plan(pipeline=3, pipeline_blocks=(6, 5, 1))
    assert [p.stop - p.start for p in parts(wide.costs(), given)] == [6, 5, 1]


def test_a_cut_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError, match=r"3 blocks and the plan 4 stages.*at most pipeline = 3"):
        parts([1, 1, 1], Plan(pipeline=4))
    with pytest.raises(PlanError, match=r"are 4 blocks and the model has 3; balanced would be \[1, 2\]"):
        parts([1, 1, 1], Plan(pipeline=2, pipeline_blocks=(2, 2)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pipeline_chunks": 2}, "interleaved has at least 2"),
        ({"pipeline_schedule": "interleaved"}, "interleaved has at least 2"),
        ({"pipeline_blocks": (1, 2, 3)}, "has 3 numbers and the plan 2 stages"),
        ({"pipeline_schedule": "zero_bubble", "zero": 2}, "set zero = 1, or use 1f1b"),
        ({"pipeline_schedule": "zero_bubble", "remat": True}, "enters it once for every matrix"),
        ({"pipeline_schedule": "interleaved", "pipeline_chunks": 2, "zero": 3}, "2 times"),
    ],
)
def test_what_a_pipeline_cannot_be_composed_with(fields: dict[str, object], said: str) -> None:
    from mainspring.config import parse

    with pytest.raises(ConfigError, match=said):
        parse(Plan, {"pipeline": 2, **fields})


def test_micro_batches_fill_the_pipeline() -> None:
    """Four a rank where there are so many rows, else as many as there are."""
    cut = lambda rows, **plan: split_batch(rows * 8, 8, Plan(**plan), 0.0, 1.0).accumulation  # noqa: E731
    assert cut(64) == 1
    assert cut(64, pipeline=2) == 8
    assert cut(64, pipeline=4) == 16
    assert cut(6, pipeline=4) == 6
    assert cut(64, pipeline=2, data=4) == 8
    # Interleaving takes whole rounds: of 10 rows over 4 ranks not five micro-batches of two, but ten.
    assert cut(10, pipeline=4, pipeline_schedule="interleaved", pipeline_chunks=2) == 10
    with pytest.raises(PlanError, match="no cut of 2 rows a rank"):
        cut(2, pipeline=4)
