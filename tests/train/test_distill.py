"""Distillation as a run: resumed to the bit, the same over ranks and plans, its student taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.data.dataset import TokenData
from mainspring.errors import ConfigError, DataError, PlanError, UsageError
from mainspring.evaluate.objective import score_run
from mainspring.parallel import World
from mainspring.recipes.exchange import export_run
from mainspring.recipes.forecast import check
from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train.run import Run
from mainspring.train.setup import prepare
from mainspring.train.source import read_weights
from support.spawn import run_ranks
from train.test_objective_modules import words
from train.test_trainer_ranks import Curve
from train.tiny import build_data, fit, recipe

__all__ = ["words"]
"""A fixture of another file."""

STUDENT = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "max_positions": 32}
TEACHER = {"d_model": 32, "n_heads": 4, "n_layers": 3, "d_ff": 48, "max_positions": 32}


@pytest.fixture(scope="module")
def teacher(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a moment on hidden tokens."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    changes = {"model__config": TEACHER, "train__checkpoint_every": 0}
    fit(recipe(words, kind="mlm", **changes), folder)
    return folder


def distilled(rank: int, world: int, data: str, folder: str, teacher: str, changes: dict[str, Any]) -> Curve:
    """A student's curve."""
    wanted = recipe(Path(data), kind="mlm", **changes)
    objective = {"kind": "distill", "teacher": teacher, "relation_heads": 4, "logits_weight": 0.1}
    wanted = wanted.replace(objective=objective, model={"family": "bert", "config": STUDENT})
    _, told, _ = fit(wanted, Path(folder))
    return {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, ev.StepDone)}


def test_a_run_resumes_is_scored_and_gives_its_student_away(
    words: Path, teacher: Path, tmp_path: Path
) -> None:
    steady = {"optim__schedule": {"kind": "constant"}, "train__eval_every": 6}
    at_once = distilled(0, 1, str(words), str(tmp_path / "one"), str(teacher), steady)
    first = distilled(0, 1, str(words), str(tmp_path / "two"), str(teacher), {**steady, "train__steps": 4})
    rest = distilled(0, 1, str(words), str(tmp_path / "two"), str(teacher), steady)
    assert first | rest == at_once and list(rest) == [5, 6]
    newest = ck.latest(Run(tmp_path / "one").checkpoints)
    assert newest is not None
    state = ck.load_model_state(newest)
    for name, tensor in read_weights(teacher).state.items():
        assert torch.equal(state[f"teacher.{name}"], tensor), "a teacher stays as it is"
    score = score_run(Run(tmp_path / "one"), newest, data=TokenData.open(words), seq_len=16)
    assert score.loss > 0
    export_run(tmp_path / "one", tmp_path / "out", "safetensors")
    out = read_weights(tmp_path / "out")
    assert out.config.d_model == 16 and out.state.keys() == read_weights(tmp_path / "one").state.keys()
    assert not any(name.startswith("teacher.") for name in out.state)


@pytest.mark.distributed
@pytest.mark.parametrize(
    "plan", [{"data": 2}, {"data": 2, "zero": 2}, {"data": 2, "zero": 3}, {"tensor": 2},
             {"tensor": 2, "tensor_sequence": True}],
)  # fmt: skip
def test_it_is_the_same_over_ranks(words: Path, teacher: Path, tmp_path: Path, plan: dict[str, Any]) -> None:
    changes = {"train__steps": 3, "train__checkpoint_every": 0}
    alone = distilled(0, 1, str(words), str(tmp_path / "one"), str(teacher), changes)
    over = {**changes, **{f"plan__{k}": v for k, v in plan.items()}}
    two = run_ranks(distilled, 2, str(words), str(tmp_path / "two"), str(teacher), over)[0]
    assert alone.keys() == two.keys()
    for step, (loss, norm) in alone.items():
        assert two[step] == pytest.approx((loss, norm), rel=2e-4)


def test_what_cannot_teach_is_refused(words: Path, teacher: Path, tmp_path: Path) -> None:
    base = recipe(words, kind="mlm")

    def asked(**objective: Any) -> Any:
        return base.replace(objective={"kind": "distill", "teacher": str(teacher), **objective})

    with pytest.raises(UsageError, match=r"objective.teacher: .*no-such.* and objective.teacher = RUN"):
        check(asked(teacher=str(tmp_path / "no-such")))
    with pytest.raises(ConfigError, match="relation_heads = 5"):
        check(asked(relation_heads=5))
    with pytest.raises(PlanError, match=r"plan.sequence = 2 cuts rows"):
        prepare(asked().replace(plan={"sequence": 2}), World())
    other = build_data(tmp_path / "other", "wordpiece", 100)
    with pytest.raises(DataError, match="another tokenizer than the data"):
        check(asked().replace(data={"path": str(other), "seq_len": 16}))
