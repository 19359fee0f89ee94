"""A mixture of students as a run: its stop falls on its step, resumed or not, and over ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train.run import Run
from mainspring.train.source import read_weights
from support.spawn import run_ranks
from train.tiny import fit, recipe

EXPERTS = {"count": 4, "every": 1, "top_k": 2, "capacity_factor": math.inf, "balance_weight": 0.0}
SHAPE = {"d_model": 16, "n_heads": 2, "d_ff": 32, "max_positions": 32, "experts": EXPERTS}
STEADY = {"optim__schedule": {"kind": "constant"}}

Told = dict[int, tuple[float, float, float]]
"""Loss, gradient norm and the teacher's part, by step."""


def train(data: str, folder: str, layers: int, objective: dict[str, Any], changes: dict[str, Any]) -> Told:
    wanted = recipe(Path(data), **STEADY, **changes)
    model = {"family": "gpt2", "config": {**SHAPE, "n_layers": layers}}
    _, told, _ = fit(wanted.replace(objective=objective, model=model), Path(folder))
    steps = [e for e in told if isinstance(e, ev.StepDone)]
    return {e.step: (e.loss, e.grad_norm, e.losses.get("teacher", 0.0)) for e in steps}


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(str(data), str(folder), 3, {"kind": "clm"}, {"train__checkpoint_every": 0})
    return folder


def on_a_rank(rank: int, world: int, *given: Any) -> Told:
    return train(*given)


def test_the_stop_is_kept_through_a_resumption(data: Path, teacher: Path, tmp_path: Path) -> None:
    mos = {"kind": "mos", "teacher": str(teacher), "until": 3, "weight": 0.5}
    at_once = train(str(data), str(tmp_path / "one"), 2, mos, {"train__steps": 5})
    first = train(str(data), str(tmp_path / "two"), 2, mos, {"train__steps": 2})
    rest = train(str(data), str(tmp_path / "two"), 2, mos, {"train__steps": 5})
    assert first | rest == at_once
    assert [told[2] > 0 for told in at_once.values()] == [True, True, True, False, False]
    newest = ck.latest(Run(tmp_path / "one").checkpoints)
    assert newest is not None
    state = ck.load_model_state(newest)
    for name, tensor in read_weights(teacher).state.items():
        assert torch.equal(state[f"teacher.{name}"], tensor), "a teacher stays as it is"
    assert read_weights(tmp_path / "one").config.n_layers == 2


@pytest.mark.distributed
@pytest.mark.parametrize("plan", [{"data": 2, "expert": 2, "zero": 3}, {"tensor": 2}])
def test_it_is_the_same_over_ranks(data: Path, teacher: Path, tmp_path: Path, plan: dict[str, Any]) -> None:
    mos = {"kind": "mos", "teacher": str(teacher), "until": 2}
    changes = {"train__steps": 3, "train__checkpoint_every": 0}
    alone = train(str(data), str(tmp_path / "one"), 2, mos, changes)
    over = {**changes, **{f"plan__{k}": v for k, v in plan.items()}}
    two = run_ranks(on_a_rank, 2, str(data), str(tmp_path / "two"), 2, mos, over)[0]
    assert alone.keys() == two.keys()
    for step, told in alone.items():
        assert two[step] == pytest.approx(told, rel=2e-4)
