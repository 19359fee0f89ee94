"""The trainer over ranks: the same run for any number of them, any ZeRO stage, before and after a
resumption."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mainspring.errors import NonFiniteError
from mainspring.parallel.zero.scale import LossScaler
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


Job = tuple[str, str, dict[str, Any]]
"""Folder of a run, the run whose copy it goes on from (or ""), and changes of the recipe."""


def several(rank: int, world: int, data: str, place: str, jobs: list[Job]) -> dict[str, Curve]:
    """Runs one after another on the same ranks."""
    curves = {}
    for folder, source, changes in jobs:
        if source and rank == 0:
            shutil.copytree(Path(place) / source, Path(place) / folder)
        dist.barrier()
        curves[folder] = train(rank, world, data, str(Path(place) / folder), changes)
    return curves


def test_a_run_is_the_same_over_any_ranks_and_goes_on_over_any_other(data: Path, tmp_path: Path) -> None:
    """Flat shards, FSDP2 and whole states, each from each."""
    full = {"train__steps": 6, "optim__schedule": {"kind": "constant"}}
    half = {**full, "train__steps": 3}
    old = {"plan__backend": "fsdp2"}
    alone = train(0, 1, str(data), str(tmp_path / "alone"), full)
    jobs = [
        ("flat", "", {**half, "plan__zero": 2}),
        ("fsdp2", "", {**half, **old, "plan__zero": 3}),
        ("flat-flat", "flat", {**full, "plan__zero": 1}),
        ("flat-fsdp2", "flat", {**full, **old, "plan__zero": 1}),
        ("fsdp2-flat", "fsdp2", {**full, "plan__zero": 3}),
        ("flat-whole", "flat", {**full, "plan__zero": 0}),
    ]
    curves = run_ranks(several, 2, str(data), str(tmp_path), jobs)[0]
    close({k: v for k, v in alone.items() if k <= 3}, curves["fsdp2"])
    # 2 -> 1 and 2 -> 4 -> 1 ranks.
    shutil.copytree(tmp_path / "flat", tmp_path / "flat-1")
    curves["flat-1"] = train(0, 1, str(data), str(tmp_path / "flat-1"), full)
    five = {**full, "train__steps": 5, "plan__zero": 3}
    shutil.copytree(tmp_path / "flat", tmp_path / "flat-4")
    curves["flat-4"] = run_ranks(train, 4, str(data), str(tmp_path / "flat-4"), five)[0]
    curves["flat-4"] |= train(0, 1, str(data), str(tmp_path / "flat-4"), full)
    for name, rest in curves.items():
        if name not in ("flat", "fsdp2"):
            assert list(rest) == [4, 5, 6], name
            close(alone, curves["flat"] | rest)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_flat_shards_resume_to_the_bit(data: Path, tmp_path: Path, zero: int) -> None:
    same = {"train__steps": 5, "optim__schedule": {"kind": "constant"}, "plan__zero": zero}
    same |= {"train__precision": "bf16" if zero == 2 else "fp32"}
    jobs = [("whole", "", same), ("part", "", {**same, "train__steps": 3}), ("rest", "part", same)]
    curves = run_ranks(several, 2, str(data), str(tmp_path), jobs)[0]
    assert curves["part"] | curves["rest"] == curves["whole"] and list(curves["rest"]) == [4, 5]
    ends = [ck.load_model_state(tmp_path / run / "checkpoints/step-00000005") for run in ("whole", "rest")]
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


def half_precision(rank: int, world: int, data: str, place: str) -> list[Any]:
    """Two runs in fp16, one interrupted: losses, skipped steps and what the checkpoints know of the scale."""
    LossScaler.__init__.__defaults__ = (2.0**20, 2000)  # overflows at first
    told: dict[str, list[ev.Event]] = {"whole": [], "part": []}
    for run, steps in (("whole", 6), ("part", 3), ("part", 6)):
        wanted = recipe(
            Path(data),
            plan__data=world,
            plan__zero=2,
            train__steps=steps,
            train__precision="fp16",
            train__checkpoint_every=3,
            optim__schedule={"kind": "constant"},
        )
        told[run] += fit(wanted, Path(place) / run)[1]
    losses, skips = (
        [[(e.step, e.loss) for e in told[run] if isinstance(e, StepDone)] for run in told],
        [[e.reason for e in told[run] if isinstance(e, ev.StepSkipped)] for run in told],
    )
    scales = [
        ck.Manifest.read(Path(place) / run / "checkpoints/step-00000006").run["loss_scale"] for run in told
    ]
    return [losses, skips, scales]


def test_half_precision_keeps_its_loss_scale(data: Path, tmp_path: Path) -> None:
    losses, skips, scales = run_ranks(half_precision, 2, str(data), str(tmp_path))[0]
    assert losses[0] == losses[1] and len(losses[0]) + len(skips[0]) == 6
    assert (
        skips[0] == skips[1]
        and skips[0]
        and all("overflowed fp16 at a loss scale of" in said for said in skips[0])
    )
    assert scales[0] == scales[1] and scales[0]["good"] > 0
    assert scales[0]["scale"] == 2.0**20 / 2 ** len(skips[0])


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


def poisoned(rank: int, world: int, data: str, run: str, value: float) -> str:
    """Rank 1's piece of a weight gets a value; every rank has to say what came of it."""
    from mainspring.parallel import World
    from mainspring.train import Trainer
    from train.tiny import MACHINE

    wanted = recipe(Path(data), plan__data=world, plan__zero=3)
    with World.start(wanted.plan, device="cpu", threads=1) as where:
        trainer = Trainer(wanted, Path(run), where, [], machine=MACHINE)

        def poison(event: ev.Event) -> None:
            if isinstance(event, StepDone) and event.step == 3 and rank == 1:
                assert trainer.setup is not None
                weight = dict(trainer.setup.model.named_parameters())["layers.1.feed_forward.up.weight"]
                with torch.no_grad():
                    weight[0] = value  # of the piece that is here

        trainer._tell.sinks.append(poison)
        try:
            trainer.fit()
        except NonFiniteError as error:
            return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (float("inf"), "parameter 'weight' of module 'layers.1.feed_forward.up'"),
        (3e38, "output of module 'layers.1.feed_forward.up'"),
    ],
)
def test_every_rank_names_the_same_culprit(data: Path, tmp_path: Path, value: float, culprit: str) -> None:
    said = run_ranks(poisoned, 2, str(data), str(tmp_path), value)
    assert said[0] == said[1] and culprit in said[0]
    if value == float("inf"):
        assert "(rank 1)" in said[0] and "shape [32, 16]" in said[0]
    assert ck.latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-00000002"
