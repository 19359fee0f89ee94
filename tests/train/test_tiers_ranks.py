"""Checkpoints of the host's and the disk's tier, written by two ranks and taken up by two and by one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mainspring.train import Trainer
from mainspring.train import checkpoint as ck
from mainspring.train.checkpoint.io import read_whole
from mainspring.train.events import StepDone
from support.spawn import run_ranks
from train.tiny import fit, recipe

pytestmark = pytest.mark.distributed
SAVED, STEPS = 2, 4
TIERS: dict[str, dict[str, Any]] = {
    "disk": {"zero": 3, "offload": "disk"},
    "host": {"zero": 2, "offload": "host"},
    "delayed": {"zero": 3, "offload": "host", "offload_delay": 0},
}
Curve = dict[int, tuple[float, float]]


def run(world: int, data: str, folder: Path, tier: dict[str, Any], steps: int) -> tuple[Curve, Trainer]:
    plan = {**tier, "data": world}
    if tier["offload"] == "disk":
        plan["offload_folder"] = str(folder.parent / "tier")
    same = {"optim__schedule": {"kind": "constant"}, "train__checkpoint_every": SAVED}
    wanted = recipe(Path(data), train__steps=steps, **same).replace(plan=plan)
    _, told, trainer = fit(wanted, folder)
    return {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, StepDone)}, trainer


def on_two(rank: int, world: int, data: str, place: str) -> dict[str, tuple[Curve, Curve]]:
    """Of each tier: a run in one go, and a run that stops and goes on; the folder as it was is kept."""
    curves = {}
    for name, tier in TIERS.items():
        folder = Path(place) / name
        through, _ = run(world, data, folder / "through", tier, STEPS)
        part, _ = run(world, data, folder / "part", tier, SAVED)
        if rank == 0:
            shutil.copytree(folder / "part", folder / "alone")
        dist.barrier()
        rest, _ = run(world, data, folder / "part", tier, STEPS)
        curves[name] = through, part | rest
    return curves


def state_of(path: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer states of a checkpoint, whole."""
    return {name: read_whole(path, entry) for name, entry in ck.Manifest.read(path).tensors.items()}


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = state_of(one), state_of(other)
    assert mine.keys() == theirs.keys() and any(name.endswith("exp_avg_sq") for name in mine)
    for name, value in mine.items():
        assert torch.equal(theirs[name], value), name


def test_saved_on_two_ranks_resumed_on_two_and_on_one(data: Path, tmp_path: Path) -> None:
    curves, _ = run_ranks(on_two, 2, str(data), str(tmp_path), timeout=120)
    for name, tier in TIERS.items():
        through, resumed = curves[name]
        assert list(through) == [1, 2, 3, 4] and resumed == through, name  # to the last bit
        folder = tmp_path / name
        last = [ck.latest(folder / which / "checkpoints") for which in ("through", "part")]
        assert last[0] is not None and last[1] is not None
        assert_same(last[0], last[1])
        # One rank takes it up: it holds what two have saved, to the bit, and its steps are theirs.
        before = ck.latest(folder / "alone" / "checkpoints")
        _, trainer = run(1, str(data), folder / "alone", tier, SAVED)
        assert trainer.setup is not None and before is not None
        state = ck.run_state(trainer.setup.model, trainer.setup.optimizer)
        assert_same(before, ck.save(tmp_path / "again" / name, SAVED, state, {}))
        alone, _ = run(1, str(data), folder / "alone", tier, STEPS)
        assert list(alone) == [3, 4]
        for step, numbers in alone.items():
            assert numbers == pytest.approx(through[step], abs=1e-4), (name, step)
