"""The trainer over ranks: the same run for any number of them, any ZeRO stage, before and after a
resumption."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mainspring.errors import NonFiniteError
from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train.events import StepDone
from support.spawn import run_ranks
from train.tiny import build_data, fit, recipe

Curve = dict[int, tuple[float, float]]
"""Loss and gradient norm by step."""
pytestmark = pytest.mark.distributed


def train(rank: int, world: int, data: str, run: str, changes: dict[str, Any]) -> Curve:
    """What rank 0 tells; the others tell nothing."""
    wanted = recipe(Path(data), plan__data=world, **changes)
    _, told, _ = fit(wanted, Path(run))
    return {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, StepDone)}


def close(a: Curve, b: Curve) -> None:
    assert a.keys() == b.keys()
    for step, (loss, norm) in a.items():
        assert b[step][0] == pytest.approx(loss, abs=1e-5), f"loss of step {step}"
        assert b[step][1] == pytest.approx(norm, abs=1e-4), f"norm of step {step}"


def test_a_run_is_the_same_over_any_ranks_and_goes_on_over_any_other(data: Path, tmp_path: Path) -> None:
    half = {"train__steps": 6, "optim__schedule": {"kind": "constant"}}
    alone = train(0, 1, str(data), str(tmp_path / "one"), half)
    begun = {**half, "train__steps": 3, "plan__zero": 2}
    first = run_ranks(train, 2, str(data), str(tmp_path / "two"), begun)[0]
    # 2 -> 1, 2 -> 4 and 2 -> 2 ranks, each under another plan.
    for world, zero in ((1, 0), (4, 3), (2, 1)):
        folder = tmp_path / f"on-{world}"
        shutil.copytree(tmp_path / "two", folder)
        changes = {**half, "plan__zero": zero}
        if world == 1:
            rest = train(0, 1, str(data), str(folder), changes)
        else:
            rest = run_ranks(train, world, str(data), str(folder), changes)[0]
        assert list(rest) == [4, 5, 6]
        close(alone, first | rest)


def test_masking_does_not_depend_on_ranks(tmp_path: Path) -> None:
    data = build_data(tmp_path / "data", "wordpiece", 120)
    changes = {"kind": "mlm", "train__steps": 3, "train__checkpoint_every": 0}
    alone = train(0, 1, str(data), str(tmp_path / "one"), changes)
    close(alone, run_ranks(train, 2, str(data), str(tmp_path / "two"), {**changes, "plan__zero": 1})[0])


def evaluate(rank: int, world: int, data: str, run: str) -> list[tuple[float, int, int]]:
    wanted = recipe(
        Path(data),
        plan__data=world,
        plan__zero=3,
        train__steps=1,
        train__eval_every=1,
        train__eval_tokens=0,
        train__checkpoint_every=0,
    )
    _, told, _ = fit(wanted, Path(run))
    return [(e.loss, e.tokens, e.bytes) for e in told if isinstance(e, ev.Evaluated)]


def test_held_out_score_does_not_depend_on_ranks(data: Path, tmp_path: Path) -> None:
    ((loss, tokens, size),) = evaluate(0, 1, str(data), str(tmp_path / "one"))
    (spread,), *_ = run_ranks(evaluate, 2, str(data), str(tmp_path / "two"))
    assert spread[0] == pytest.approx(loss, abs=1e-5) and spread[1:] == (tokens, size)


def poisoned(rank: int, world: int, data: str, run: str) -> str:
    """Rank 1's shard of a weight gets an infinity; every rank has to say so."""
    import torch

    from mainspring.parallel import World
    from mainspring.train import Trainer
    from train.tiny import MACHINE

    wanted = recipe(Path(data), plan__data=world, plan__zero=3)
    with World.start(wanted.plan, device="cpu", threads=1) as where:
        trainer = Trainer(wanted, Path(run), where, [], machine=MACHINE)

        def poison(event: ev.Event) -> None:
            assert trainer.setup is not None
            if isinstance(event, StepDone) and event.step == 3 and rank == 1:
                weight = dict(trainer.setup.model.named_parameters())["layers.1.feed_forward.up.weight"]
                with torch.no_grad():
                    weight[0] = float("inf")  # of the piece that is here

        trainer._sinks.append(poison)
        try:
            trainer.fit()
        except NonFiniteError as error:
            return str(error)
    return "no error"


def test_every_rank_names_the_same_culprit(data: Path, tmp_path: Path) -> None:
    said = run_ranks(poisoned, 2, str(data), str(tmp_path))
    assert said[0] == said[1]
    assert "parameter 'weight' of module 'layers.1.feed_forward.up'" in said[0] and "(rank 1)" in said[0]
    assert ck.latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-00000002"
