"""Pruning: what is left computes what the whole would with the parts silenced; importance as defined."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress.test_smooth import batches, model_of
from mainspring.compress import Importance, Measure, drop_layers, drop_parts, importance, spread_layers
from mainspring.errors import UsageError
from mainspring.nn import Transformer, TransformerConfig

SHAPES: list[dict[str, Any]] = [
    {},
    {"activation": "swiglu", "norm": "rms", "bias": False, "positions": [{"kind": "rotary"}]},
    {"norm_place": "post", "embed_norm": True, "key_bias": False},
]


def ranked(model: Transformer, seed: int = 0) -> Importance:
    """Made-up importance, another in each layer."""
    draw, c = torch.Generator().manual_seed(seed), model.config
    return Importance(
        [torch.rand(c.n_heads, generator=draw) for _ in range(c.n_layers)],
        [torch.rand(c.d_ff, generator=draw) for _ in range(c.n_layers)],
    )


@pytest.mark.parametrize("changes", SHAPES)
@torch.no_grad()
def test_what_is_left_is_the_whole_with_parts_silenced(changes: dict[str, Any]) -> None:
    model, batch = model_of(n_heads=4, **changes), batches()[0]
    found = ranked(model)
    smaller = drop_parts(model, found, heads=3, d_ff=10)
    assert (smaller.config.n_heads, smaller.config.head_width, smaller.config.d_ff) == (3, 4, 10)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    for layer, block in enumerate(model.layers):
        least = int(found.heads[layer].argmin())
        block.attention.out.weight.view(16, 4, 4)[:, least] = 0
        silent = found.columns[layer].argsort()[:14]
        block.feed_forward.down.weight[:, silent] = 0
    torch.testing.assert_close(smaller(batch).logits, model(batch).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layers_are_dropped_whole() -> None:
    model, batch = model_of(n_layers=4), batches()[0]
    smaller = drop_layers(model, [1, 3])
    assert smaller.config.n_layers == 2
    model.layers = torch.nn.ModuleList([model.layers[1], model.layers[3]])
    assert torch.equal(smaller(batch).logits, model(batch).logits)
    assert spread_layers(6, 3) == [1, 3, 5] and spread_layers(12, 12) == list(range(12))
    assert spread_layers(5, 2) == [1, 4] and spread_layers(7, 1) == [6]


@pytest.mark.parametrize("changes", SHAPES)
def test_importance_is_the_derivative_by_a_factor_on_a_part(changes: dict[str, Any]) -> None:
    """By central differences of the loss of each text alone."""
    model, texts = model_of(n_heads=2, **changes), batches(causal=True)
    measure = Measure(model, texts, causal=True)
    found = importance(model, measure)
    view = measure.views[0]

    def loss(row: int, module: torch.nn.Module, columns: slice, factor: float) -> float:
        one = view._replace(**{k: t[row : row + 1] for k, t in view._asdict().items() if t is not None})

        def scale(_: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            y = args[0].clone()
            y[..., columns] *= factor
            return (y,)

        handle = module.register_forward_pre_hook(scale)
        with torch.no_grad():
            logits = model(one).logits.double()
        handle.remove()
        return float(torch.nn.functional.cross_entropy(logits[0, :-1], one.labels[0, :-1], reduction="sum"))

    def difference(module: torch.nn.Module, columns: slice) -> float:
        rows = len(view.ids)
        return (
            sum(
                abs(loss(r, module, columns, 1.02) - loss(r, module, columns, 0.98)) / 0.04
                for r in range(rows)
            )
            / rows
        )

    for layer, block in enumerate(model.layers):
        for head in range(2):
            want = difference(block.attention.out, slice(8 * head, 8 * head + 8))
            assert float(found.heads[layer][head]) == pytest.approx(want, rel=0.02, abs=2e-3)
        want = difference(block.feed_forward.down, slice(5, 6))
        assert float(found.columns[layer][5]) == pytest.approx(want, rel=0.02, abs=2e-3)
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_a_silent_head_is_the_least_important_of_a_bare_encoder() -> None:
    model = model_of(n_heads=4, head="none")
    with torch.no_grad():
        model.layers[1].attention.out.weight.view(16, 4, 4)[:, 2] = 0
    found = importance(model, Measure(model, batches()))
    assert float(found.heads[1][2]) == 0.0 and (found.heads[1] > 0).sum() == 3
    assert all((c > 0).all() for c in found.columns)


def test_what_cannot_be_pruned_is_refused() -> None:
    model = model_of()
    with pytest.raises(UsageError, match="heads = 3: a layer has 2; nearest legal value: 2"):
        drop_parts(model, ranked(model), heads=3)
    with pytest.raises(UsageError, match="each once, rising"):
        drop_layers(model, [1, 0])
    with pytest.raises(UsageError, match="7 layers cannot be kept of 2; nearest legal value: 2"):
        spread_layers(2, 7)
    shared = model_of(positions=[{"kind": "t5_bias"}])
    with pytest.raises(UsageError, match="share learnt positions"):
        drop_parts(shared, ranked(shared), heads=1)
    both = Transformer(
        TransformerConfig(d_model=8, n_heads=2, encoder_layers=1, decoder_layers=1, d_ff=8, vocab_size=40)
    )
    with pytest.raises(UsageError, match="one stack"):
        drop_layers(both, [0])
