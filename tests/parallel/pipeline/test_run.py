"""Pipelines at work: what they send, how long they idle, what a rank keeps, and what they save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mainspring.nn import Transformer, initialize
from mainspring.parallel import Plan
from mainspring.parallel.pipedream.schedule import Op
from mainspring.parallel.pipeline.orders import orders
from mainspring.planner.ticks import Event, Timeline, simulate
from parallel.pipeline import staged
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

TICK = 0.03
ATTEMPTS = 4
SCHEDULES: list[dict[str, Any]] = [
    {"pipeline_schedule": "gpipe"},
    {},
    {"pipeline_schedule": "interleaved", "pipeline_chunks": 2},
    {"pipeline_schedule": "zero_bubble"},
]


def measured(ranks: list[list[Any]]) -> Timeline:
    begin = min(start for ops in ranks for _, start, _ in ops)
    return Timeline(
        tuple(
            Event(rank, Op(*op), start - begin, end - begin)
            for rank, ops in enumerate(ranks)
            for op, start, end in ops
        ),
        len(ranks),
    )


def test_a_real_run_idles_as_the_simulation_says() -> None:
    """Ranks that sleep instead of computing, so that two cores are enough for four of them.

    A busy machine wakes them late, which only ever adds to the time that others wait: of some runs the one
    that waits least is the schedule's own.
    """
    idle: dict[str, float] = {}
    for attempt in range(ATTEMPTS):
        runs = run_ranks(staged.asleep, 4, SCHEDULES, 8, TICK * (1 + attempt))
        far = []
        for number, fields in enumerate(SCHEDULES):
            plan = Plan(pipeline=4, **fields)
            whole = 1 if plan.pipeline_schedule == "zero_bubble" else 2
            chunks, order = plan.pipeline_chunks, orders(plan, 8)
            paper = simulate(order, lambda op, w=whole, c=chunks: (w if op.kind == "B" else 1) / c)
            ranks = [run[number] for run in runs]
            done = [[Op(*op) for op, _, _ in ops] for ops in ranks]
            assert done == order, "the run keeps another order than the tables"
            name = plan.pipeline_schedule
            idle[name] = min(measured(ranks).idle, idle.get(name, 1.0))
            assert idle[name] > paper.idle - 0.07, fields
            far += [(name, idle[name], paper.idle)] if idle[name] > paper.idle + 0.07 else []
        if not far and idle["zero_bubble"] < idle["interleaved"] + 0.03 < idle["1f1b"]:
            return
    pytest.fail(f"in {ATTEMPTS} runs no schedule waited as little as its simulation: {far}, {idle}")


@pytest.mark.parametrize("lengths", [(7,), (7, 5)])
def test_traffic_is_the_formula(lengths: tuple[int, ...]) -> None:
    """A boundary passes B T D elements forward and as many back for each micro-batch, the shared table goes
    each way once, and nothing else travels between the ranks of a pipeline."""
    tokens = sum(3 * lengths[i % len(lengths)] for i in range(4))
    activations, table = 4 * tokens * 16, 4 * 29 * 16
    first, *middle, last = run_ranks(staged.traffic, 4, {"pipeline": 4}, lengths)
    assert first == {"activations": activations, "shared parameters": table}
    assert last == {"activation gradients": activations, "shared gradients": table}
    for rank in middle:
        assert rank == {"activations": activations, "activation gradients": activations}
    chunked = {"pipeline": 2, "pipeline_schedule": "interleaved", "pipeline_chunks": 2}
    first, last = run_ranks(staged.traffic, 2, chunked, lengths)
    assert first["activations"] == 2 * activations and last["activations"] == activations


def test_a_rank_keeps_its_stage_and_borrows_what_it_shares() -> None:
    whole = initialize(Transformer(staged.CONFIG), seed=0)
    names = {name for name, _ in whole.named_parameters()}
    first, last = run_ranks(staged.keep, 2)
    assert set(first["names"]) | set(last["names"]) == names
    assert not set(first["names"]) & set(last["names"]), "a parameter is kept twice"
    assert "embeddings.token.weight" in first["names"]
    assert last["elsewhere"] == frozenset(first["names"]) and first["elsewhere"] == frozenset(last["names"])
    assert last["state"] == last["names"]
    assert first["full"] == {name: t.tolist() for name, t in whole.state_dict().items()} and not last["full"]
    assert (first["has"], last["has"]) == (False, True)
    assert first["results"] == [] and len(last["results"]) == 3
    want = [staged.language_loss(whole, ids).item() for ids in staged.batches(3)]
    assert last["results"] == pytest.approx(want, rel=1e-6)
    for rank in (first, last):
        assert "parallel.accumulate" in rank["said"][0]
    assert "more than once" in last["twice"]


def tensors(folder: str) -> dict[str, torch.Tensor]:
    return {n: t for file in sorted(Path(folder).glob("*.safetensors")) for n, t in load_file(file).items()}


def test_checkpoints_move_between_plans(tmp_path: Path) -> None:
    """Stages with ZeRO on four ranks -> one rank -> other stages on two ranks -> one rank: the same bits."""
    four = {"pipeline": 2, "data": 2, "zero": 1}
    saved = run_ranks(staged.save, 4, four, str(tmp_path / "four"))[0]
    alone = staged.save(0, 1, {}, str(tmp_path / "alone"), saved)
    chunks = {"pipeline": 2, "pipeline_schedule": "interleaved", "pipeline_chunks": 2}
    staged_again = run_ranks(staged.save, 2, chunks, str(tmp_path / "two"), alone)[0]
    back = staged.save(0, 1, {}, str(tmp_path / "back"), staged_again)
    one, other = tensors(alone), tensors(back)
    assert one.keys() == other.keys() and any("exp_avg" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    weights = {n.removeprefix("model.") for n in one if n.startswith("model.")}
    assert weights == set(Transformer(staged.CONFIG).state_dict())
