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


BOTH = {"dropout": 0.3, "attention_dropout": 0.5}
VARIANTS = {
    "stream": ({}, {"dropout": 0.3}),
    "heads": ({}, BOTH),
    "heads again": ({"remat": True}, BOTH),
    "tokens": ({"tensor_sequence": True}, {"dropout": 0.3}),
    "all": ({"tensor_sequence": True}, BOTH),
    "all again": ({"tensor_sequence": True, "remat": True}, BOTH),
}
"""Fields of the plan, and rates of dropout."""


def run(rank, world):
    """Of each variant: states of the stream, what heads give in the first layer, a gradient, and a number
    drawn afterwards."""
    found = {}
    for name, (plan, dropouts) in VARIANTS.items():
        torch.manual_seed(rank)  # `apply` sees to it that ranks draw alike
        model = initialize(Transformer(TransformerConfig(**SHAPE, **dropouts)), seed=0)
        with torch.no_grad():
            heads = model.layers[0].attention.qkv.weight.view(4, -1, 32)
            heads.copy_(heads[:1].clone())  # all alike: only chance can tell them apart
        parallel.apply(model, Plan(tensor=world, **plan))
        mixed = []
        out = model.layers[0].attention.out
        out.register_forward_pre_hook(lambda module, args, kept=mixed: kept.append(args[0].detach()))
        output = model(causal_batch(torch.zeros((1, 16), dtype=torch.int64)), states=True)
        output.logits.square().sum().backward()
        states = [state.detach().numpy() for state in output.states]
        gradient = model.layers[0].attention_norm.weight.grad
        found[name] = states, mixed[0].numpy(), gradient.numpy(), float(torch.rand(()))
    return found


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(run, 2)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_stream_is_the_same_on_all_ranks(ranks, name):
    one, other = (rank[name] for rank in ranks)
    assert same(one[0], other[0]) and np.array_equal(one[2], other[2]) and one[3] == other[3]


@pytest.mark.parametrize(("name", "alike"), [("stream", True), ("heads", False)])
def test_heads_have_chance_of_their_own(ranks, name, alike):
    one, other = (rank[name] for rank in ranks)
    assert np.array_equal(one[1], other[1]) is alike


def test_tokens_of_different_ranks_drop_differently(ranks):
    states = ranks[0]["tokens"][0]
    change = states[2] - states[1]
    left, right = change[:, :8] == 0, change[:, 8:] == 0
    assert left.any() and right.any() and not np.array_equal(left, right)


@pytest.mark.parametrize("name", ["heads", "all"])
def test_a_recomputation_has_the_same_chance(ranks, name):
    for rank in ranks:
        assert np.array_equal(rank[name][2], rank[f"{name} again"][2])
