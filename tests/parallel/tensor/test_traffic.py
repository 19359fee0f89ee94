"""What travels is what the formulas say, to the byte (spec/systems.md, B9)."""

from __future__ import annotations

import pytest
import torch

from mainspring import parallel
from mainspring.data.batch import IGNORE, causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives.base import labelled_loss
from mainspring.parallel import Plan
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

ROWS, LENGTH, WIDTH, LAYERS, MICRO_BATCHES = 3, 8, 32, 2, 2


PLANS = {"plain": {}, "remat": {"remat": True}, "tokens": {"tensor_sequence": True}}


def counted(rank, world):
    """Calls and bytes of a step's micro-batches; ZeRO's 16-bit parameters make all activations 16-bit."""
    return {name: count(plan) for name, plan in PLANS.items()}


def count(plan):
    config = TransformerConfig(
        d_model=WIDTH, n_heads=4, n_layers=LAYERS, d_ff=48, vocab_size=40, max_positions=LENGTH
    )
    model = initialize(Transformer(config), seed=0)
    parallel.apply(model, Plan(tensor=2, data=2, zero=1, **plan), precision="bf16")
    ids = torch.zeros((ROWS, LENGTH), dtype=torch.int64)
    labels = ids.masked_fill(torch.arange(LENGTH) < 4, IGNORE)
    with parallel.traffic(model).measure() as seen:
        for _ in range(MICRO_BATCHES):
            labelled_loss(model, causal_batch(ids, labels=labels)).backward()
    found = {key: (t.calls, t.payload) for key, t in seen.records.items()}
    return {key: value for key, value in found.items() if key[0] in ("tensor", "vocabulary")}


@pytest.fixture(scope="module")
def traffic():
    return run_ranks(counted, 4)[0]


TOKENS = 2 * ROWS * LENGTH * WIDTH
"""Bytes of the activations between layers: 2 s b h."""
PREDICTED = ROWS * 4


@pytest.mark.parametrize("name", ["plain", "remat"])
def test_four_all_reduces_a_layer_and_micro_batch(traffic, name):
    seen = dict(traffic[name])
    # Of a recomputation the last one, which nothing in backward needs, is left out.
    layers = LAYERS * (5 if name == "remat" else 4)
    # And one for the head, of the tokens that are predicted.
    calls, payload = seen.pop(("tensor", "all_reduce"))
    assert calls == MICRO_BATCHES * (layers + 1)
    assert payload == MICRO_BATCHES * (layers * TOKENS + 2 * PREDICTED * WIDTH)
    # Embeddings, and three numbers a predicted token for the loss.
    calls, payload = seen.pop(("vocabulary", "all_reduce"))
    assert calls == MICRO_BATCHES * 3
    assert payload == MICRO_BATCHES * (TOKENS + 3 * 4 * PREDICTED)
    assert not seen


def test_the_same_volume_where_tokens_are_cut(traffic):
    seen = traffic["tokens"]
    # Each all-reduce has become an all-gather and a reduce-scatter; the stream is begun and left once.
    four = MICRO_BATCHES * LAYERS * 4
    assert seen["tensor", "reduce_scatter"] == (four, four * TOKENS)
    begun_and_left = 2 * MICRO_BATCHES
    assert seen["tensor", "all_gather"] == (four + begun_and_left, (four + begun_and_left) * TOKENS)
    # Gradients of norms are added up: weight and bias of two in each layer and of the last; and the head's.
    norms = 2 * LAYERS + 1
    calls, payload = seen["tensor", "all_reduce"]
    assert calls == MICRO_BATCHES * (norms + 1)
    assert payload == MICRO_BATCHES * (norms * 2 * 2 * WIDTH + 2 * PREDICTED * WIDTH)
