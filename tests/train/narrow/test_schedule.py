"""The schedule of bits beside its closed form, and eigenvalues beside the exact Hessian's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mainspring.config import parse
from mainspring.errors import ConfigError
from mainspring.train.narrow import (
    FormatTraining,
    LayerBits,
    MixtureTraining,
    advance,
    factor_of,
    largest_eigenvalues,
)
from mainspring.train.narrow.schedule import mixed_in


@given(
    start=st.integers(1, 16), fewer=st.integers(0, 15), period=st.integers(1, 20), factor=st.integers(1, 5)
)
def test_bits_fall_where_the_closed_form_says(start: int, fewer: int, period: int, factor: int) -> None:
    """Fall number k comes at period (2 f)^k."""
    target = max(1, start - fewer)
    layer = LayerBits(start, period)
    for step in range(400):
        layer = advance(layer, step, target, factor)
        fallen = sum(step >= period * (2 * factor) ** k for k in range(start - target))
        assert layer.bits == start - fallen


def test_a_table_written_out() -> None:
    layer, bits = LayerBits(8, 4), []
    for step in range(40):
        layer = advance(layer, step, 4)
        bits.append(layer.bits)
    assert bits == [8] * 4 + [7] * 4 + [6] * 8 + [5] * 16 + [4] * 8
    assert layer.fell == 32


def test_factors() -> None:
    shares = [0.01, 0.24, 0.25, 0.5, 0.75, 0.99, 1.0, 0.0, math.nan, math.inf]
    assert [factor_of(share) for share in shares] == [1, 1, 2, 3, 4, 4, 5, 5, 5, 5]


def test_what_is_mixed_in_starts_anew_with_each_fall() -> None:
    assert [mixed_in(LayerBits(8, 0, fell=10), step, 0.25) for step in (10, 11, 13, 14, 99)] == [
        1.0, 0.75, 0.25, 0.0, 0.0,
    ]  # fmt: skip
    assert mixed_in(LayerBits(8, 0), 0, 0.0) == 0.0


@pytest.mark.parametrize("seed", [0, 1])
def test_eigenvalues_are_those_of_the_exact_hessian(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(40, 4), torch.randint(3, (40,))
    layers = {name: list(model[int(name)].parameters()) for name in ("0", "2", "4")}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}

    def gradients() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()

    found = largest_eigenvalues(gradients, layers, iterations=400, tolerance=1e-5)
    for name, parameters in layers.items():
        sizes = [p.numel() for p in parameters]
        keys = [f"{name}.weight", f"{name}.bias"]

        def loss(flat: torch.Tensor, keys: list[str] = keys, sizes: list[int] = sizes) -> torch.Tensor:
            parts = {k: v.view(before[k].shape) for k, v in zip(keys, flat.split(sizes), strict=True)}
            weights = {n: p.double() for n, p in before.items()} | parts
            out = torch.func.functional_call(model, weights, x.double())
            return nn.functional.cross_entropy(out, y)

        flat = torch.cat([before[k].double().flatten() for k in keys])
        exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat)).abs().max()
        assert found[name] == pytest.approx(float(exact), rel=0.01)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters()), "weights are as they were"


def test_a_layer_without_influence_has_no_curvature() -> None:
    parameter = nn.Parameter(torch.ones(3))

    def gradients() -> None:
        parameter.grad = torch.full_like(parameter, 2.0)

    assert largest_eigenvalues(gradients, {"flat": [parameter]}) == {"flat": 0.0}


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="above start_bits = 4; nearest legal value: 4"):
        parse(MixtureTraining, {"start_bits": 4, "target_bits": 8})
    with pytest.raises(ConfigError, match="no number format is called 'int99'"):
        parse(FormatTraining, {"weights": "int99"})
