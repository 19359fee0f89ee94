"""Runs whose tokens and experts lie on several ranks: one process's curve, from and to any other plan."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from mainspring.errors import PlanError
from mainspring.parallel import World
from mainspring.train.events import StepDone
from mainspring.train.setup import prepare
from support.spawn import run_ranks
from train.test_trainer_ranks import Curve, close
from train.tiny import fit, recipe

pytestmark = pytest.mark.distributed
EXPERTS = {"count": 4, "every": 1, "capacity_factor": math.inf, "balance_weight": 0.0, "top_k": 2}
"""Without losses of balance, which are of micro-batches: one process cuts others."""


def train(data: str, run: str, changes: dict[str, Any]) -> Curve:
    model = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "max_positions": 32, "experts": EXPERTS}
    wanted = recipe(Path(data), model__config=model, **changes)
    _, told, _ = fit(wanted, Path(run))
    return {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, StepDone)}


Job = tuple[str, str, dict[str, Any]]
"""Folder of a run, the run whose copy it goes on from (or ""), and changes of the recipe."""


def several(rank: int, world: int, data: str, place: str, jobs: list[Job]) -> dict[str, Curve]:
    curves = {}
    for folder, source, changes in jobs:
        if source and rank == 0:
            shutil.copytree(Path(place) / source, Path(place) / folder)
        dist.barrier()
        curves[folder] = train(data, str(Path(place) / folder), changes)
    return curves


def test_any_plan_goes_on_from_any_other(data: Path, tmp_path: Path) -> None:
    full = {"train__steps": 5, "train__checkpoint_every": 3, "optim__schedule": {"kind": "constant"}}
    half = {**full, "train__steps": 3}
    alone = train(str(data), str(tmp_path / "alone"), full)

    def plan(**fields: Any) -> dict[str, Any]:
        return {f"plan__{name}": value for name, value in fields.items()}

    jobs = [
        ("two", "", {**half, **plan(data=4, expert=2)}),
        ("four", "two", {**full, **plan(data=4, expert=4, zero=3)}),
        ("tokens", "two", {**full, **plan(data=2, expert=2, sequence=2, zero=1)}),
        ("ring", "two", {**full, **plan(data=2, sequence=2, sequence_attention="ring", zero=2)}),
        ("flat", "", {**half, **plan(data=2, expert=2, sequence=2, zero=3)}),
        ("whole", "flat", {**full, **plan(data=4)}),
    ]
    curves = run_ranks(several, 4, str(data), str(tmp_path), jobs, timeout=280)[0]
    for source in ("two", "flat"):  # to one rank
        shutil.copytree(tmp_path / source, tmp_path / f"{source}-alone")
        curves[f"{source}-alone"] = train(str(data), str(tmp_path / f"{source}-alone"), full)
    for curve in curves.values():
        close({step: alone[step] for step in curve}, curve)
    assert curves["two"].keys() == {1, 2, 3} and curves["four"].keys() == {4, 5}


def test_objectives_that_compare_whole_rows_are_refused(data: Path) -> None:
    wanted = recipe(data, kind="xlco", data__pairs="nowhere", plan__sequence=2)
    with pytest.raises(PlanError, match="cuts rows; set plan.sequence = 1"):
        prepare(wanted, World(size=2))
