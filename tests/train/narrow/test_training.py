"""Runs trained for narrow formats: what products see, resumed to the bit, the same over ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.errors import PlanError
from mainspring.nn import Transformer, initialize
from mainspring.numerics import format_named, in_bits
from mainspring.parallel import Plan
from mainspring.train import events as ev
from mainspring.train.narrow import FormatTraining, MixtureTraining, Narrow
from mainspring.train.recipe import Recipe
from support.spawn import run_ranks
from train.test_trainer_ranks import Curve
from train.tiny import build_data, fit, recipe

MOQ: dict[str, Any] = {
    "kind": "mixture",
    "start_bits": 6,
    "target_bits": 3,
    "start": 1,
    "period": 1,
    "groups": 2,
}

CURVED: dict[str, Any] = {**MOQ, "eigenvalues": True, "tolerance": 1e-9, "iterations": 4}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_data(tmp_path_factory.mktemp("narrow") / "data")


def asked(data: Path, narrow: dict[str, Any], **changes: Any) -> Recipe:
    return recipe(data, optim__schedule={"kind": "constant"}, **changes).replace(narrow=narrow)


def curve(
    rank: int, world: int, data: str, folder: str, narrow: dict[str, Any], changes: dict[str, Any]
) -> tuple[Curve, list[dict[str, int]]]:
    _, told, _ = fit(asked(Path(data), narrow, **changes), Path(folder))
    losses = {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, ev.StepDone)}
    return losses, [
        {str(e.step): b for b in [*e.bits.values()][:1]} for e in told if isinstance(e, ev.Narrowed)
    ]


def model_of() -> Transformer:
    from mainspring.nn import TransformerConfig

    config = TransformerConfig(d_model=16, n_heads=2, n_layers=2, d_ff=32, vocab_size=37)
    return initialize(Transformer(config), 0)


def nothing(layers: Any) -> dict[str, float]:
    raise AssertionError("no eigenvalue was asked for")


def test_products_see_narrow_weights_and_gradients_go_straight_through() -> None:
    model = model_of()
    narrow = Narrow(MixtureTraining(**{**MOQ, "start": 0}), model, Plan(), 0)
    assert narrow.begin(0, nothing) and set(narrow.bits.values()) == {6}
    up = model.layers[0].feed_forward.up
    assert torch.equal(up.seen_weight(), in_bits(up.weight, 6, groups=2))
    x = torch.randn(3, 16)
    up(x).sum().backward()
    torch.testing.assert_close(up.weight.grad, x.sum(0).expand(32, 16))
    assert model.head.table is None and model.embeddings.token.weight.grad is None
    assert narrow.begin(1, nothing) and set(narrow.bits.values()) == {5}
    assert torch.equal(up.seen_weight(), in_bits(up.weight, 5, groups=2))
    mixed = Narrow(MixtureTraining(**{**MOQ, "start": 0, "period": 9, "mix_fall": 0.25}), model, Plan(), 0)
    mixed.begin(1, nothing)
    torch.testing.assert_close(up.seen_weight(), 0.75 * up.weight + 0.25 * in_bits(up.weight, 6, groups=2))


def test_a_format_for_weights_and_activations() -> None:
    model = model_of()
    config = FormatTraining(weights="msfp12", activations="int8", start=2)
    narrow = Narrow(config, model, Plan(), 0)
    down, x = model.layers[1].feed_forward.down, torch.randn(3, 32, requires_grad=True)
    assert not narrow.begin(1, nothing) and torch.equal(down.seen_weight(), down.weight)
    assert narrow.begin(2, nothing) and not narrow.begin(3, nothing)
    want = format_named("int8").quantize(x) @ format_named("msfp12").quantize(down.weight).T + down.bias
    torch.testing.assert_close(down(x), want)
    down(x).sum().backward()
    torch.testing.assert_close(x.grad, format_named("msfp12").quantize(down.weight).sum(0).expand(3, 32))
    stochastic = Narrow(FormatTraining(weights="int4", rounding="stochastic"), model, Plan(), 0)
    stochastic.begin(0, nothing)
    first = down.seen_weight()
    assert torch.equal(first, down.seen_weight()), "of a step the chance is one: recomputation sees the same"
    stochastic.begin(1, nothing)
    assert not torch.equal(first, down.seen_weight())


def test_a_run_resumes_to_the_bit(words: Path, tmp_path: Path) -> None:
    narrow = {**MOQ, "eigenvalues": True, "iterations": 3, "rounding": "stochastic"}
    whole, told = curve(0, 1, str(words), str(tmp_path / "one"), narrow, {})
    assert [next(iter(event)) for event in told][:2] == ["1", "2"], (
        "it begins after one step, falls after two"
    )
    first, _ = curve(0, 1, str(words), str(tmp_path / "two"), narrow, {"train__steps": 4})
    rest, _ = curve(0, 1, str(words), str(tmp_path / "two"), narrow, {})
    assert first | rest == whole and list(rest) == [5, 6]
    plain, _ = curve(0, 1, str(words), str(tmp_path / "three"), {"kind": "format", "weights": "int3"}, {})
    assert plain[1] != whole[1] and plain.keys() == whole.keys()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("narrow", "zero"),
    [(MOQ, 0), (MOQ, 1), (CURVED, 2), (CURVED, 3), ({"kind": "format", "weights": "int4"}, 3)],
)
def test_it_is_the_same_over_ranks(words: Path, tmp_path: Path, narrow: dict[str, Any], zero: int) -> None:
    changes = {"train__checkpoint_every": 0}
    alone, bits = curve(0, 1, str(words), str(tmp_path / "one"), narrow, changes)
    over = {**changes, "plan__data": 2, "plan__zero": zero}
    two, same = run_ranks(curve, 2, str(words), str(tmp_path / "two"), narrow, over)[0]
    assert bits == same and alone.keys() == two.keys()
    for step, (loss, norm) in alone.items():
        assert two[step] == pytest.approx((loss, norm), rel=2e-3)


def test_plans_that_cut_weights_are_refused() -> None:
    with pytest.raises(PlanError, match=r"plan.tensor = 2 cuts weight matrices"):
        Narrow(FormatTraining(), model_of(), Plan(tensor=2), 0)
    with pytest.raises(PlanError, match=r"plan.offload = 'host'"):
        Narrow(MixtureTraining(eigenvalues=True), model_of(), Plan(zero=1, offload="host"), 0)
