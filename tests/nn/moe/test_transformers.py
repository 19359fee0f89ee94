"""The layer beside transformers' Switch and NLLB-MoE, on random weights, with padding and dropped tokens."""

import pytest
import torch
from transformers import NllbMoeConfig, SwitchTransformersConfig
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersSparseMLP

from mainspring.models.transforms import StackedExperts
from mainspring.nn import TransformerConfig
from mainspring.nn.moe import ExpertFeedForward

WIDTH, INNER, COUNT = 16, 24, 4


def shape(bias, **experts):
    return TransformerConfig(
        d_model=WIDTH, n_heads=1, n_layers=1, d_ff=INNER, activation="relu", bias=bias, vocab_size=5,
        experts={"count": COUNT, "every": 1, "keep": "first", "min_capacity": 1, **experts},
    )  # fmt: skip


def randomised(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.eval()


def ours(theirs, config, names):
    """Our layer with the weights of theirs, through the transform that the weight maps use."""
    layer, state = ExpertFeedForward(config, COUNT).eval(), theirs.state_dict()
    mine = {"gate.weight": state["router.classifier.weight"]}
    for part, name in zip(("up", "down"), names, strict=True):
        for kind in ("weight", "bias") if config.bias else ("weight",):
            each = [state[f"experts.expert_{e}.{name}.{kind}"] for e in range(COUNT)]
            mine[f"experts.{part}.{kind}"] = StackedExperts().read(each, config)
            back = StackedExperts().write(mine[f"experts.{part}.{kind}"], config)
            assert all(torch.equal(a, b) for a, b in zip(back, each, strict=True))
    layer.load_state_dict(mine)
    return layer


def tokens(rows, length):
    return torch.randn(rows, length, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("factor", [None, 0.5, 1.0])
@torch.inference_mode()
def test_switch(factor):
    """transformers gives an expert room in each row; ours in the batch, which here is a row."""
    config = shape(False, eval_capacity_factor=factor)
    room = 12 if factor is None else int(12 * factor / COUNT + 0.999)
    theirs = randomised(
        SwitchTransformersSparseMLP(
            SwitchTransformersConfig(d_model=WIDTH, d_ff=INNER, num_experts=COUNT, expert_capacity=room)
        )
    )
    layer = ours(theirs, config, ("wi", "wo"))
    for row in tokens(3, 12):
        torch.testing.assert_close(layer(row[None])[0], theirs(row[None]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
@torch.inference_mode()
def test_nllb_moe(fraction, padded):
    """Its experts with the factors that its router gives (transformers 5.23 runs experts 0 and 1 alone)."""
    valid = torch.arange(12).expand(3, 12) < torch.tensor([[12], [7], [1]]) if padded else None
    count = 36 if valid is None else int(valid.sum())
    room = -(-36 * fraction // 1)
    config = shape(True, top_k=2, eval_capacity_factor=None if fraction == 1 else room * COUNT / count / 2)
    theirs = randomised(
        NllbMoeSparseMLP(
            NllbMoeConfig(
                d_model=WIDTH, num_experts=COUNT, moe_eval_capacity_token_fraction=fraction,
                encoder_ffn_dim=INNER,
            ),
            INNER,
        )
    )  # fmt: skip
    layer = ours(theirs, config, ("fc1", "fc2"))
    x = tokens(3, 12)
    flat = x.flatten(0, 1)
    _, factors, _ = theirs.router(flat, None if valid is None else ~valid.flatten())
    want = sum(factors[:, e, None] * theirs.experts[f"expert_{e}"](flat) for e in range(COUNT))
    assert fraction == 1 or ((factors != 0).sum() < 2 * count)
    torch.testing.assert_close(layer(x, valid)[0].flatten(0, 1), want, atol=1e-5, rtol=1e-5)
