"""Compiled layers train as plain ones do, go on to the bit, and compose with shards and recomputation."""

from pathlib import Path

import pytest

from mainspring.errors import ConfigError
from mainspring.nn.block import Block
from mainspring.train.events import StepDone
from support.spawn import run_ranks
from train.tiny import fit, recipe

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]
COMPILED = {"train__compile": True, "optim__schedule": {"kind": "constant"}}


def losses(events):
    return {e.step: e.loss for e in events if isinstance(e, StepDone)}


def test_the_losses_of_plain_layers(data, tmp_path):
    plain = losses(fit(recipe(data, optim__schedule={"kind": "constant"}), tmp_path / "plain")[1])
    _, told, trainer = fit(recipe(data, **COMPILED), tmp_path / "whole")
    compiled = losses(told)
    assert compiled == pytest.approx(plain, rel=1e-4) and compiled != plain  # another order of sums
    assert all(layer.fused for layer in trainer.setup.model.modules() if isinstance(layer, Block))
    fit(recipe(data, **COMPILED, train__steps=4), tmp_path / "rest")
    again = losses(fit(recipe(data, **COMPILED), tmp_path / "rest")[1])
    assert again == {step: compiled[step] for step in (5, 6)}


def test_changing_layers_are_refused(data):
    with pytest.raises(ConfigError, match="compiled anew each time"):
        recipe(data, **COMPILED, train__layer_drop={})


PLANS = [{}, {"zero": 1}, {"zero": 3}, {"zero": 2, "remat": True}, {"data": 1, "tensor": 2}]


def every_plan(rank, world, data, place):
    """Losses of plain and of compiled layers, a pair for each plan."""
    found = []
    for number, plan in enumerate(PLANS):
        values = {f"plan__{key}": value for key, value in {"data": world, **plan}.items()}
        for name, changes in (("plain", {**COMPILED, "train__compile": False}), ("compiled", COMPILED)):
            _, told, _ = fit(recipe(Path(data), **values, **changes), Path(place) / f"{name}-{number}")
            found.append(losses(told))
    return found


@pytest.mark.distributed
@pytest.mark.slow
def test_over_ranks(data, tmp_path):
    curves = run_ranks(every_plan, 2, str(data), str(tmp_path))[0]
    for plan, plain, compiled in zip(PLANS, curves[::2], curves[1::2], strict=True):
        assert len(plain) == 6 and compiled == pytest.approx(plain, rel=1e-4), plan
