"""The trainer with layers over ranks: the curve of one process, and checkpoints that go both ways."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from mainspring.errors import PlanError
from mainspring.train.events import Evaluated, StepDone
from support.spawn import run_ranks
from train.tiny import build_data, fit, recipe

pytestmark = pytest.mark.distributed

Told = tuple[dict[int, tuple[float, float]], list[float]]
"""Loss and gradient norm by step, and held-out losses."""
FOUR = {"optim__schedule": {"kind": "constant"}, "train__steps": 4, "train__eval_every": 2}


def train(rank: int, world: int, data: str, run: str, kind: str, changes: dict[str, Any]) -> Told:
    """What rank 0 tells."""
    _, told, _ = fit(recipe(Path(data), kind=kind, **changes), Path(run))
    curve = {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, StepDone)}
    return curve, [e.loss for e in told if isinstance(e, Evaluated)]


def go_on(rank: int, world: int, data: str, run: str, changes: dict[str, Any]) -> Told:
    """From another run's checkpoint."""
    if rank == 0:
        shutil.copytree(Path(run) / "alone", Path(run) / "on")
    dist.barrier()
    return train(rank, world, data, f"{run}/on", "clm", changes)


def refused(rank: int, world: int, data: str, run: str) -> str:
    """What an objective of several networks is told."""
    with pytest.raises(PlanError) as error:
        wanted = recipe(Path(data), kind="rtd", plan__pipeline=2)
        shape = {
            "d_model": 16,
            "n_heads": 2,
            "n_layers": 2,
            "d_ff": 32,
            "max_positions": 32,
            "head": "replaced",
        }
        fit(wanted.replace(model={"family": "electra", "config": shape}), Path(run))
    return str(error.value)


def close(one: Told, other: Told) -> None:
    assert one[0].keys() == other[0].keys()
    for step, (loss, norm) in one[0].items():
        assert other[0][step] == (pytest.approx(loss, abs=1e-5), pytest.approx(norm, abs=1e-4)), step
    assert one[1] == pytest.approx(other[1], abs=1e-5)


def test_a_pipeline_trains_as_one_rank_and_takes_up_its_checkpoint(data: Path, tmp_path: Path) -> None:
    alone = train(0, 1, str(data), str(tmp_path / "alone"), "clm", {**FOUR, "train__steps": 2})
    whole = train(0, 1, str(data), str(tmp_path / "whole"), "clm", FOUR)
    staged = {**FOUR, "plan__pipeline": 2}
    ranks = run_ranks(train, 2, str(data), str(tmp_path / "staged"), "clm", staged)
    close(ranks[0], whole)
    # One rank's checkpoint over stages with ZeRO, and that one's on one rank.
    four = {**staged, "plan__data": 2, "plan__zero": 1, "train__steps": 3, "train__eval_every": 0}
    after = run_ranks(go_on, 4, str(data), str(tmp_path), four)[0]
    last = train(0, 1, str(data), str(tmp_path / "on"), "clm", FOUR)
    assert sorted(after[0] | last[0]) == [3, 4]
    close((alone[0] | after[0] | last[0], last[1]), (whole[0], whole[1][1:]))


def test_an_objective_of_several_networks_is_refused(tmp_path: Path) -> None:
    words = build_data(tmp_path / "words", "wordpiece", 120)
    for said in run_ranks(refused, 2, str(words), str(tmp_path / "run")):
        assert "objective.kind = 'rtd' trains a GeneratorAndDiscriminator" in said
