"""Low-rank updates beside the product written out."""

import pytest
import torch

from mainspring.errors import UsageError
from mainspring.finetune.low_rank import LowRankLinear, adapt, fold
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.linear import Linear


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
def test_an_update_adds_its_product_and_folds_into_the_weight(bias: bool) -> None:
    torch.manual_seed(0)
    base = Linear(6, 4, bias=bias)
    x = torch.randn(3, 5, 6)
    layer = LowRankLinear(base, 2, generator())
    torch.testing.assert_close(layer(x), base(x))  # as before, until it is trained
    with torch.no_grad():
        layer.up.normal_()
    expected = x @ (base.weight + layer.up @ layer.down).T + (base.bias if bias else 0)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.folded()(x), expected)
    assert type(layer.folded()) is not LowRankLinear


def test_only_the_update_learns() -> None:
    layer = LowRankLinear(Linear(6, 4), 2, generator())
    with torch.no_grad():
        layer.up.normal_()
    layer(torch.randn(3, 6)).square().sum().backward()
    assert layer.weight.grad is None
    assert layer.up.grad is not None and layer.down.grad is not None


def test_every_map_of_a_layer_is_adapted_once_and_folded_back() -> None:
    config = TransformerConfig(d_model=8, n_heads=2, n_layers=1, d_ff=16, vocab_size=11)
    model = initialize(Transformer(config), seed=0)
    layer, x = model.layers[0], torch.randn(2, 3, 8)
    names = [n for n, m in layer.named_modules() if isinstance(m, Linear)]
    adapt(layer, 2, generator())
    found = [n for n, m in layer.named_modules() if isinstance(m, LowRankLinear)]
    assert found == names and len(names) == 4
    fold(layer)
    assert not any(isinstance(m, LowRankLinear) for m in layer.modules())
    assert {n for n, _ in layer.named_parameters()} >= {f"{n}.weight" for n in names}
    assert x.shape == (2, 3, 8)


def test_impossible_updates_are_refused() -> None:
    with pytest.raises(UsageError, match="rank = 0"):
        adapt(torch.nn.Sequential(Linear(2, 2)), 0, generator())
    with pytest.raises(UsageError, match="no linear map"):
        adapt(torch.nn.LayerNorm(2), 1, generator())
