"""Runs whose layers are cut over ranks: one process's curve, and checkpoints to any plan, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives.base import labelled_loss
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.sequence import split_tokens
from mainspring.train import checkpoint as ck
from mainspring.train.checkpoint.io import read_whole
from support.spawn import run_ranks
from train.test_axes_ranks import several, train
from train.test_objective_modules import CONTRAST, over_pairs, pairs, run, words
from train.test_trainer_ranks import Curve, close

__all__ = ["pairs", "words"]
"""Fixtures of another file."""
pytestmark = pytest.mark.distributed

EXPERTS = {"count": 4, "every": 1, "top_k": 2, "residual": True, "capacity_factor": None}
CONFIG = TransformerConfig(
    d_model=16, n_heads=4, n_layers=2, d_ff=24, vocab_size=37, vocab_rows=39, max_positions=8, experts=EXPERTS
)
"""A vocabulary that two ranks cannot share equally: pieces of what is not cut end elsewhere on each."""

PLANS: list[dict[str, Any]] = [
    {"tensor": 2, "data": 2},
    {"tensor": 2, "pipeline": 2, "zero": 1},
    {"data": 4},
    {"data": 2, "expert": 2, "tensor": 2, "zero": 1},
    {"tensor": 2, "data": 2, "zero": 3, "tensor_sequence": True},
    {"data": 2, "expert": 2, "pipeline": 2, "zero": 2},
    {"tensor": 4, "zero": 0},
    {"data": 4, "expert": 4, "zero": 3},
    {"data": 4, "zero": 2},
    {"data": 2, "expert": 2, "sequence": 2, "zero": 2},
]
STRIDES = (1, 4)
"""Each plan's checkpoint is read by the plans so many places after it in the list; by all others where slow
tests run."""
OTHERS = tuple(step for step in range(1, len(PLANS)) if step not in STRIDES)
PATIENCE = 600


def made(seed: int, plan: dict[str, Any], steps: int = 0) -> tuple[Transformer, torch.optim.Optimizer]:
    """A model on a plan, and its optimizer, after so many steps."""
    model = parallel.apply(initialize(Transformer(CONFIG), seed), Plan(**plan), reduce="sum")
    optimizer = optim.build(model, OptimConfig(lr=0.01))
    index = parallel.axes_of(model).index("data")
    for step in range(steps):
        ids = torch.randint(37, (2, 8), generator=torch.Generator().manual_seed(10 * step + index))
        batch = causal_batch(ids, labels=ids.roll(-1, 1))
        if (size := plan.get("sequence", 1)) > 1:
            batch = split_tokens(batch, parallel.axes_of(model).index("sequence"), size)
        parallel.accumulate(model, [batch, batch], labelled_loss)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def moved(rank: int, world: int, folder: str, strides: tuple[int, ...]) -> None:
    """Save under each plan, load under some others, save again."""
    everyone = torch.distributed.group.WORLD
    for number, source in enumerate(PLANS):
        place = Path(folder) / str(number)
        model, optimizer = made(1, source, steps=2)
        path = ck.save(place / "first", 2, ck.run_state(model, optimizer), {}, group=everyone)
        want = parallel.full_state(model)
        if rank == 0:
            torch.save(want, place / "want.pt")
        for step in strides:
            target = (number + step) % len(PLANS)
            other, theirs = made(2, PLANS[target])
            ck.load(path, other, theirs, group=everyone)
            ck.save(place / f"by {target}", 2, ck.run_state(other, theirs), {}, group=everyone)


def contents(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, whole."""
    return {name: read_whole(path, entry) for name, entry in ck.Manifest.read(path).tensors.items()}


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("strides", [STRIDES, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=str)
def test_every_plan_loads_what_every_plan_saved_to_the_bit(tmp_path: Path, strides: tuple[int, ...]) -> None:
    run_ranks(moved, 4, str(tmp_path), strides, timeout=PATIENCE)
    for number in range(len(PLANS)):
        place = tmp_path / str(number)
        first, *others = sorted(place.glob("*/step-*"), key=lambda path: path.parent.name != "first")
        want, saved = torch.load(place / "want.pt"), contents(first)
        assert all(torch.equal(saved[f"model.{name}"], tensor) for name, tensor in want.items())
        moments = [name for name in saved if name.endswith((".exp_avg", ".exp_avg_sq"))]
        assert len(moments) == 2 * len(want) and all(saved[name].any() for name in moments)
        assert len(others) == len(strides)
        for other in others:
            again = contents(other)
            assert again.keys() == saved.keys()
            assert all(torch.equal(again[name], saved[name]) for name in saved), other
        model, optimizer = made(3, {})  # and one process
        ck.load(first, model, optimizer)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, want[name])
            for key in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(optimizer.state[parameter][key], saved[f"optimizer.{name}.{key}"])


def test_any_plan_goes_on_from_any_other(data: Path, tmp_path: Path) -> None:
    full = {"train__steps": 5, "train__checkpoint_every": 3, "optim__schedule": {"kind": "constant"}}
    full["train__eval_every"] = 5
    half = {**full, "train__steps": 3}
    alone = train(str(data), str(tmp_path / "alone"), full)

    def plan(**fields: Any) -> dict[str, Any]:
        return {f"plan__{name}": value for name, value in fields.items()}

    jobs = [
        ("cut", "", {**half, **plan(data=2, tensor=2, zero=1)}),
        ("tokens", "cut", {**full, **plan(data=2, tensor=2, tensor_sequence=True, remat=True)}),
        ("whole", "cut", {**full, **plan(data=4, zero=3)}),
        ("experts", "", {**half, **plan(data=2, expert=2, tensor=2, zero=2)}),
        ("both", "experts", {**full, **plan(sequence=2, sequence_attention="ring", tensor=2)}),
    ]
    curves = run_ranks(several, 4, str(data), str(tmp_path), jobs, timeout=280)[0]
    shutil.copytree(tmp_path / "experts", tmp_path / "one")
    curves["one"] = train(str(data), str(tmp_path / "one"), full)
    for curve in curves.values():
        close({step: alone[step] for step in curve}, curve)
    assert curves["cut"].keys() == {1, 2, 3} and curves["whole"].keys() == {4, 5}


OBJECTIVES: dict[str, dict[str, Any]] = {
    "rtd, disentangled": {"objective__embeddings": "disentangled"},
    "rtd, shared": {"objective__embeddings": "shared"},
    "contrast": CONTRAST,
    "unicoder": {"kind": "unicoder"},
    "translation": {"kind": "mt", "label_smoothing": 0.1},
    "sequences": {"kind": "s2s", "label_smoothing": 0.1},
    "pseudo-masked": {"kind": "pmlm"},
}


def trained(data: str, pairs: str, place: str, plan: dict[str, Any]) -> dict[str, Curve]:
    """Two steps of every objective; where there is a plan, every other one cuts tokens too."""
    curves = {}
    for number, (name, values) in enumerate(OBJECTIVES.items()):
        changes: dict[str, Any] = {"train__steps": 2, "train__checkpoint_every": 0, **plan}
        if plan and number % 2:
            changes["plan__tensor_sequence"] = True
        folder = Path(place) / name
        if name.startswith("rtd"):
            curves[name] = run(Path(data), folder, **changes, **values)[0]
        else:
            where = None if values["kind"] == "pmlm" else pairs
            curves[name] = over_pairs(0, 1, data, str(folder), where, changes, values)  # type: ignore[arg-type]
    return curves


def objectives(rank: int, world: int, data: str, pairs: str, place: str) -> dict[str, Curve]:
    return trained(data, pairs, place, {"plan__tensor": world})


def test_every_objective_is_the_same(words: Path, pairs: Path, tmp_path: Path) -> None:
    given = str(words), str(pairs)
    alone = trained(*given, str(tmp_path / "one"), {})
    two = run_ranks(objectives, 2, *given, str(tmp_path / "two"), timeout=280)[0]
    for name, curve in alone.items():
        for step, (loss, norm) in curve.items():
            assert two[name][step] == pytest.approx((loss, norm), rel=1e-4), name
