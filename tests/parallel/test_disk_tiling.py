"""A linear layer in tiles is the linear layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mainspring.errors import PlanError
from mainspring.parallel.blocks import shardable_blocks
from mainspring.parallel.disk import TiledLinear


@given(
    sizes=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    splits=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    bias=st.booleans(),
    lead=st.sampled_from([(), (3,), (2, 3)]),
)
def test_forward_and_both_gradients_are_those_of_linear(sizes, splits, bias, lead):
    splits = [min(a, b) for a, b in zip(splits, sizes, strict=True)]
    torch.manual_seed(sum(sizes))
    linear = nn.Linear(*sizes, bias=bias, dtype=torch.float64)
    tiled = TiledLinear.of(linear, in_splits=splits[0], out_splits=splits[1])
    x = torch.randn(*lead, sizes[0], dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(one) for layer, one in zip((linear, tiled), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    weight, b = tiled.whole()
    assert torch.equal(weight, linear.weight) and (b is None or torch.equal(b, linear.bias))
    for parameter in tiled.parameters():
        parameter.data = parameter.grad
    weight, b = tiled.whole()
    torch.testing.assert_close(weight, linear.weight.grad)
    if bias:
        torch.testing.assert_close(b, linear.bias.grad)
    assert len(tiled.tiles) == splits[0] * splits[1]


def test_tiles_are_units_of_their_own():
    model = nn.Sequential(nn.LayerNorm(8), TiledLinear(8, 32, out_splits=4), nn.Linear(32, 2))
    assert shardable_blocks(model) == list(model[1].tiles)


def test_draws_like_linear_and_stays_on_meta():
    torch.manual_seed(0)
    tiled = TiledLinear(400, 300, in_splits=4, out_splits=3)
    weight, bias = tiled.whole()
    assert float(weight.abs().max()) <= 0.05 and float(weight.std()) == pytest.approx(0.05 / 3**0.5, rel=0.02)
    assert float(bias.abs().max()) <= 0.05
    meta = TiledLinear.of(nn.Linear(4, 4, device="meta"), out_splits=2)
    assert all(p.is_meta for p in meta.parameters())


def test_more_tiles_than_features_are_refused():
    with pytest.raises(PlanError, match="out_splits=5 of a dimension of 4"):
        TiledLinear(4, 4, out_splits=5)
