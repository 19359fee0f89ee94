"""Sparse attention and dropped layers over ranks: the curve of one process under every kind of plan."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from mainspring.train.events import StepDone
from support.spawn import run_ranks
from train.test_trainer_ranks import Curve, close
from train.tiny import fit, recipe

pytestmark = pytest.mark.distributed
DROP = {"train__layer_drop": {"floor": 0.2, "decay": 1.0, "unit": "layer"}}
APART = {"train__layer_drop": {"floor": 0.2, "decay": 1.0}}
CAUSAL = {"kind": "bigbird", "block": 4, "attention": "unidirectional", "per_head": True}
STEPS = {"train__steps": 5, "train__checkpoint_every": 3, "optim__schedule": {"kind": "constant"}}


def train(rank: int, world: int, data: str, run: str, changes: dict[str, Any], sparse: bool) -> Curve:
    model = {"d_model": 16, "n_heads": 4, "n_layers": 4, "d_ff": 32, "max_positions": 32}
    model |= {"sparse": CAUSAL} if sparse else {}
    _, told, _ = fit(recipe(Path(data), model__config=model, **STEPS, **changes), Path(run))
    return {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, StepDone)}


def plan(**fields: Any) -> dict[str, Any]:
    return {f"plan__{name}": value for name, value in fields.items()}


Job = tuple[str, str, dict[str, Any], bool]
"""Name of a run, the run of one process that it equals, changes, and whether attention is sparse."""
JOBS: list[Job] = [
    ("drop, replicas", "drop", DROP | plan(data=4), False),
    ("drop, zero 3, remat", "drop", DROP | plan(data=4, zero=3, remat=True), False),
    ("drop, stages", "drop", DROP | plan(data=2, pipeline=2, zero=2), False),
    ("apart, zero 2, sparse", "apart", APART | plan(data=2, tensor=2, zero=2), True),
    (
        "apart, zero bubble, sparse",
        "apart",
        APART | plan(tensor=2, pipeline=2, pipeline_schedule="zero_bubble"),
        True,
    ),
    ("sparse, heads", "sparse", plan(data=2, sequence=2), True),
    ("sparse, uneven heads", "sparse", plan(sequence=4, zero=3, remat=True), True),
    ("sparse, ring", "sparse", plan(data=2, sequence=2, sequence_attention="ring"), True),
    ("sparse, tokens", "sparse", plan(data=2, tensor=2, tensor_sequence=True, zero=1), True),
]
ALONE: dict[str, tuple[dict[str, Any], bool]] = {
    "drop": (DROP, False), "apart": (APART, True), "sparse": ({}, True),
}  # fmt: skip


def every(rank: int, world: int, data: str, place: str) -> dict[str, Curve]:
    """The runs one after another on the same ranks, and one that goes on from another's checkpoint."""
    curves = {name: train(rank, world, data, f"{place}/{name}", changes, sparse)
              for name, _, changes, sparse in JOBS}  # fmt: skip
    if rank == 0:
        shutil.copytree(f"{place}/alone-drop", f"{place}/on")
        shutil.rmtree(f"{place}/on/checkpoints/step-00000005")
    dist.barrier()
    curves["on"] = train(rank, world, data, f"{place}/on", DROP | plan(data=2, tensor=2, zero=3), False)
    return curves


def test_the_curve_of_one_process(data: Path, tmp_path: Path) -> None:
    alone = {
        name: train(0, 1, str(data), str(tmp_path / f"alone-{name}"), changes, sparse)
        for name, (changes, sparse) in ALONE.items()
    }
    curves = run_ranks(every, 4, str(data), str(tmp_path))[0]
    differ = {}
    for name, same, _, _ in JOBS:
        try:
            close(alone[same], curves[name])
        except AssertionError as error:
            differ[name] = str(error)
    assert not differ
    assert list(curves["on"]) == [4, 5]
    close({step: alone["drop"][step] for step in (4, 5)}, curves["on"])
