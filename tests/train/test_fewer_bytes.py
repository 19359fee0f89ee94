"""Recipes whose ranks send signs, or join by Adasum: they train, resume to the bit, refuse what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mainspring.config import apply_overrides, parse
from mainspring.errors import ConfigError
from mainspring.train import Recipe
from support.spawn import run_ranks
from train.test_trainer_ranks import several
from train.tiny import fit, recipe

SIGNS: dict[str, Any] = {
    "plan__communication": "compressed",
    "optim__onebit": {
        "freeze_step": 2,
        "var_update_scaler": 1,
        "local_step_scaler": 1,
        "local_step_clipper": 2,
    },
    "optim__schedule": {"kind": "constant"},
}
WAYS: dict[str, dict[str, Any]] = {
    "onebit-adam": SIGNS | {"optim__kind": "onebit_adam"},
    "onebit-adam-shards": SIGNS | {"optim__kind": "onebit_adam", "plan__zero": 1, "train__precision": "bf16"},
    "zero-one": SIGNS | {"optim__kind": "zero_one_adam"},
    "adasum": {"plan__communication": "adasum", "optim__schedule": {"kind": "constant"}},
}
COMPRESSED = ["optim.onebit.freeze_step=3", "plan.communication=compressed"]


@pytest.mark.distributed
def test_runs_resume_to_the_bit(data: Path, tmp_path: Path) -> None:
    """From a checkpoint that the whole run wrote as well: saving settles what is owed."""
    jobs = []
    for name, changes in WAYS.items():
        jobs += [
            (name, "", {**changes, "train__steps": 6}),
            (f"{name}-part", "", {**changes, "train__steps": 4}),
            (f"{name}-rest", f"{name}-part", {**changes, "train__steps": 6}),
        ]
    curves = run_ranks(several, 2, str(data), str(tmp_path), jobs)[0]
    for name in WAYS:
        whole, rest = curves[name], curves[f"{name}-rest"]
        assert list(whole) == [1, 2, 3, 4, 5, 6] and list(rest) == [5, 6], name
        assert {**whole, **rest} == whole, name
        assert whole[6][0] < whole[1][0], name


def test_one_process_trains(data: Path, tmp_path: Path) -> None:
    result, _, _ = fit(recipe(data, **WAYS["onebit-adam"]), tmp_path)
    assert result.status == "finished"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optim.kind=onebit_adam"], "freezes the variance after onebit.freeze_step"),
        (["optim.kind=onebit_adam", "optim.onebit.freeze_step=3"], 'set plan.communication = "compressed"'),
        (["plan.communication=compressed"], 'set optim.kind to "onebit_adam"'),
        (
            [
                "optim.kind=zero_one_adam",
                "optim.onebit.freeze_step=3",
                "plan.communication=compressed",
                "plan.zero=1",
            ],
            "set plan.zero = 0",
        ),
        (["plan.communication=compressed", "plan.zero=3"], "set zero = 0 or 1"),
        (["optim.kind=radam", "optim.bias_correction=false"], "set bias_correction = true"),
        (
            ["optim.kind=lamb", "plan.zero=2", "plan.offload=host", "plan.offload_delay=3"],
            "plan.offload_delay = 3 puts the update beside",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], said: str) -> None:
    plain = recipe(Path("data")).model_dump(mode="json")
    with pytest.raises(ConfigError, match=said):
        parse(Recipe, apply_overrides(plain, overrides))
