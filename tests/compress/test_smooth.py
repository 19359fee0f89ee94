"""Migration of outlying inputs: exact, in every layout it can be folded into; and of use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mainspring.compress.calibrate import Seen, by_layer
from mainspring.compress.smooth import factors, smooth_layer, smoothable
from mainspring.config import parse
from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.errors import UsageError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.numerics import format_named

ALL = {"attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down"}


def model_of(**changes: Any) -> Transformer:
    values = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 24, "vocab_size": 37, "max_positions": 32}
    model = initialize(Transformer(parse(TransformerConfig, {**values, **changes})), 0).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
            else:
                parameter.mul_(5)
    return model


def batches(causal: bool = False) -> list[TokenBatch]:
    ids = torch.randint(37, (3, 12), generator=torch.Generator().manual_seed(2))
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[1, 7:] = False
    return [causal_batch(ids)] if causal else [bidirectional_batch(ids, valid=valid)]


def smooth(model: Transformer, texts: list[TokenBatch], strength: float = 0.5) -> set[str]:
    """Migrate in all layers; names of the maps in a layer."""
    done: set[str] = set()

    def change(number: int, seen: dict[str, Seen]) -> None:
        inside = {name.split(".", 2)[2]: one for name, one in seen.items()}
        done.update(smooth_layer(model.layers[number], inside, strength))

    by_layer(model, texts, change)
    return done


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({}, ALL - {"feed_forward.down"}),
        ({"activation": "swiglu", "norm": "rms", "bias": False}, ALL),
        ({"activation": "relu"}, ALL),
        ({"positions": [{"kind": "rotary"}], "activation": "geglu"}, ALL),
        ({"norm_place": "post", "embed_norm": True}, {"attention.out"}),
        ({"positions": [{"kind": "t5_bias", "gate": "input"}]}, ALL - {"attention.qkv", "feed_forward.down"}),
        ({"positions": [{"kind": "disentangled", "max_distance": 8}]}, {"feed_forward.up"}),
        ({"key_bias": False}, ALL - {"feed_forward.down"}),
    ],
)
@torch.no_grad()
def test_outputs_stay_what_they_were(changes: dict[str, Any], places: set[str]) -> None:
    model, texts = model_of(**changes), batches()
    before, weights = model(texts[0]).hidden, {n: p.clone() for n, p in model.named_parameters()}
    assert {name.split(".", 2)[2] for name in smoothable(model)} == places
    assert smooth(model, texts) == places - ({"attention.qkv"} if not model.config.key_bias else set())
    assert any(not torch.equal(p, weights[n]) for n, p in model.named_parameters())
    valid = texts[0].valid
    torch.testing.assert_close(model(texts[0]).hidden[valid], before[valid], rtol=2e-5, atol=2e-5)


def test_factors_are_the_papers() -> None:
    largest, weight = (
        torch.tensor([4.0, 9.0, 0.0, 1.0]),
        torch.tensor([[1.0, -4.0, 2.0, 0.0], [0.5, 1, 1, 0]]),
    )
    assert factors(largest, weight, 0.5).tolist() == pytest.approx([2.0, 1.5, 1.0, 1.0])
    assert factors(largest, weight, 1.0).tolist() == pytest.approx([4.0, 9.0, 1.0, 1.0])
    assert factors(largest, weight, 0.0).tolist() == pytest.approx([1.0, 0.25, 1.0, 1.0])
    with pytest.raises(UsageError, match="between 0 and 1, not 2"):
        smooth_layer(model_of().layers[0], {}, 2)


@torch.no_grad()
def test_narrow_activations_lose_less_after_it() -> None:
    """A few inputs a hundred times larger than others, as the paper finds them in large models."""
    model, texts = model_of(), batches(causal=True)
    for block in model.layers:
        block.attention_norm.weight[[3, 11]] *= 100
        block.attention.qkv.weight[:, [3, 11]] /= 100
        block.feed_forward_norm.weight[5] *= 100
        block.feed_forward.up.weight[:, 5] /= 100
    whole = model(texts[0]).hidden

    def error() -> float:
        """With inputs and weights in int8."""
        form, handles = format_named("int8"), []
        kept = {n: p.clone() for n, p in model.named_parameters()}
        for name in smoothable(model):
            module = model.get_submodule(name)
            module.weight.copy_(form.quantize(module.weight))
            handles.append(module.register_forward_pre_hook(lambda _, args: (form.quantize(args[0]),)))
        changed = (model(texts[0]).hidden - whole).norm() / whole.norm()
        for handle in handles:
            handle.remove()
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name])
        return float(changed)

    before = error()
    smooth(model, texts)
    assert error() < 0.2 * before
