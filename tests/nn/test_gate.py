"""The gated bias of positions: the paper's formula written out, WavLM's module, and a cache."""

import pytest
import torch
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.nn import KVCache, T5Bias, Transformer, TransformerConfig, initialize
from mainspring.nn.gate import PositionGate, gated_scores


def config(gate, **other):
    return TransformerConfig(
        **{
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "d_ff": 48,
            "vocab_size": 50,
            "positions": (T5Bias(gate=gate),),
            "init_std": 0.3,
            **other,
        }
    )


@pytest.mark.parametrize("kind", ["input", "query"])
def test_gate_is_the_papers(kind):
    """d + u d + (1 - u) w r d, token by token (Chi et al. 2021)."""
    gate = initialize(PositionGate(config(kind)), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        gate.scale.copy_(torch.rand(4, generator=generator) * 3)
    x, q = torch.randn(2, 3, 32, generator=generator), torch.randn(2, 4, 3, 8, generator=generator)
    bias = torch.randn(1, 4, 3, 5, generator=generator)
    got = gated_scores(gate(x, q), bias, None)
    for row in range(2):
        for head in range(4):
            for i in range(3):
                token = q[row, head, i] if kind == "query" else x[row, i, head * 8 : head * 8 + 8]
                keep, r = torch.sigmoid(gate.gates.weight @ token + gate.gates.bias)
                u = 1 - keep
                for j in range(5):
                    d = bias[0, head, i, j]
                    want = d + u * d + (1 - u) * gate.scale[head] * r * d
                    assert abs(got[row, head, i, j] - want) < 1e-5


def test_gate_by_input_is_wavlms():
    attention = WavLMAttention(32, 4, num_buckets=32, max_distance=128).eval()
    gate = initialize(PositionGate(config("input")), 0)
    with torch.no_grad():
        attention.gru_rel_pos_const.copy_(torch.rand(1, 4, 1, 1) + 1)
        for ours, theirs in (
            (gate.gates.weight, attention.gru_rel_pos_linear.weight),
            (gate.gates.bias, attention.gru_rel_pos_linear.bias),
        ):
            ours.copy_(theirs.view(2, 4, *theirs.shape[1:]).sum(1))
        gate.scale.copy_(attention.gru_rel_pos_const.view(-1))
    x, bias, seen = torch.randn(2, 6, 32), attention.compute_bias(6, 6), {}

    def keep(hidden, mask, gated):
        seen["gated"] = gated
        return hidden, None

    attention.torch_multi_head_self_attention = keep
    attention(x, position_bias=bias[None].repeat(2, 1, 1, 1).view(8, 6, 6))
    got = gated_scores(gate(x, x), bias[None], None)
    torch.testing.assert_close(got.reshape(8, 6, 6), seen["gated"])


def test_gate_starts_as_published():
    """WavLM starts the scale at 1; biases start at 0."""
    gate = initialize(Transformer(config("input")), 0).layers[1].attention.gate
    assert gate.scale.tolist() == [1.0] * 4 and gate.gates.bias.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["input", "query"])
@torch.inference_mode()
def test_cached_equals_whole(kind):
    model = initialize(Transformer(config(kind)), 0).eval()
    batch = causal_batch(torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0)))
    whole = model(batch).logits
    cache = KVCache(model.config, 2, 9)
    steps = [
        model(type(batch)(*(None if t is None else t[:, a:b] for t in batch)), cache=cache).logits
        for a, b in ((0, 4), (4, 5), (5, 9))
    ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)


def test_recomputation_changes_nothing():
    """The scores reach the layers beside the residual stream: their gradient must come back all the same."""
    model = initialize(Transformer(config("input")), 0)
    batch = causal_batch(torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0)))
    found = []
    for model.remat in (False, True):
        model.zero_grad()
        model(batch).logits.square().mean().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    assert found[0]["bias.table.weight"].abs().max() > 0
    assert found[0]["layers.1.attention.gate.scale"].abs().min() > 0
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@torch.inference_mode()
def test_it_gates():
    """The same weights with and without gates give other scores; padding is not seen through them."""
    gated = initialize(Transformer(config("input")), 0).eval()
    plain = initialize(Transformer(config(None)), 0).eval()
    ids = torch.randint(50, (1, 9), generator=torch.Generator().manual_seed(0))
    batch = bidirectional_batch(ids, valid=(torch.arange(9) < 6)[None])
    out = gated(batch).logits
    assert (out - plain(batch).logits)[:, :6].abs().max() > 1e-3
    changed = gated(batch._replace(ids=torch.cat([ids[:, :6], ids[:, 6:] + 1 - 2 * (ids[:, 6:] > 0)], 1)))
    assert torch.equal(changed.logits[:, :6], out[:, :6])
