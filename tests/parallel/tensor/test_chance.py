"""Chance: the same on the ranks of a tensor group where they compute the same, another where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mainspring import parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.parallel import Plan
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

SHAPE = {"d_model": 32, "n_heads": 4, "n_layers": 2, "d_ff": 64, "vocab_size": 40, "max_positions": 16}


def run(rank, world, plan, dropouts):
    """States of the stream, what heads give in the first layer, a gradient, and a number drawn afterwards."""
    torch.manual_seed(rank)  # `apply` sees to it that ranks draw alike
    model = initialize(Transformer(TransformerConfig(**SHAPE, **dropouts)), seed=0)
    with torch.no_grad():
        heads = model.layers[0].attention.qkv.weight.view(4, -1, 32)
        heads.copy_(heads[:1].clone())  # all alike: only chance can tell them apart
    parallel.apply(model, Plan(tensor=world, **plan))
    mixed = []
    out = model.layers[0].attention.out
    out.register_forward_pre_hook(lambda module, args: mixed.append(args[0].detach()))
    output = model(causal_batch(torch.zeros((1, 16), dtype=torch.int64)), states=True)
    output.logits.square().sum().backward()
    states = [state.detach().numpy() for state in output.states]
    gradient = model.layers[0].attention_norm.weight.grad
    return states, mixed[0].numpy(), gradient.numpy(), float(torch.rand(()))


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_heads_have_chance_of_their_own_and_the_stream_the_same():
    for rate in (0.0, 0.5):
        one, other = run_ranks(run, 2, {}, {"dropout": 0.3, "attention_dropout": rate})
        assert same(one[0], other[0]) and np.array_equal(one[2], other[2]) and one[3] == other[3]
        assert np.array_equal(one[1], other[1]) is (rate == 0.0)


def test_tokens_of_different_ranks_drop_differently():
    one, other = run_ranks(run, 2, {"tensor_sequence": True}, {"dropout": 0.3})
    assert same(one[0], other[0]) and one[3] == other[3]
    change = one[0][2] - one[0][1]
    left, right = change[:, :8] == 0, change[:, 8:] == 0
    assert left.any() and right.any() and not np.array_equal(left, right)


def test_a_recomputation_has_the_same_chance():
    dropouts = {"dropout": 0.3, "attention_dropout": 0.5}
    for tokens in (False, True):
        kept, again = (
            run_ranks(run, 2, {"tensor_sequence": tokens, "remat": r}, dropouts) for r in (False, True)
        )
        for one, other in zip(kept, again, strict=True):
            assert np.array_equal(one[2], other[2])
