"""What travels is what the formulas say, to the byte (spec/systems.md, B9)."""

from __future__ import annotations

import pytest
import torch

from mainspring import parallel
from mainspring.data.batch import IGNORE, causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives.base import labelled_loss
from mainspring.parallel import Plan
from mainspring.planner.traffic import again_reduced
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

ROWS, LENGTH, WIDTH, LAYERS, MICRO_BATCHES = 3, 8, 32, 2, 2


PLANS = {
    "plain": {},
    "remat": {"remat": True},
    "tokens": {"tensor_sequence": True},
    "tokens, remat": {"tensor_sequence": True, "remat": True},
}
CASES = [(place, name) for place in ("pre", "post") for name in PLANS]


def counted(rank, world):
    """Calls and bytes of a step's micro-batches; ZeRO's 16-bit parameters make all activations 16-bit."""
    return {case: count(case[0], PLANS[case[1]]) for case in CASES}


def count(place, plan):
    config = TransformerConfig(
        d_model=WIDTH,
        n_heads=4,
        n_layers=LAYERS,
        d_ff=48,
        vocab_size=40,
        max_positions=LENGTH,
        norm_place=place,
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


def sums(place, name, shared):
    """All-reduces of a micro-batch's layers."""
    return LAYERS * (4 + ("remat" in name) * again_reduced(place, shared=shared))


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("name", ["plain", "remat"])
def test_four_all_reduces_a_layer_and_micro_batch(traffic, place, name):
    seen = dict(traffic[place, name])
    layers = sums(place, name, shared=False)
    # And one for the head, of the tokens that are predicted.
    calls, payload = seen.pop(("tensor", "all_reduce"))
    assert calls == MICRO_BATCHES * (layers + 1)
    assert payload == MICRO_BATCHES * (layers * TOKENS + 2 * PREDICTED * WIDTH)
    # Embeddings, and three numbers a predicted token for the loss.
    calls, payload = seen.pop(("vocabulary", "all_reduce"))
    assert calls == MICRO_BATCHES * 3
    assert payload == MICRO_BATCHES * (TOKENS + 3 * 4 * PREDICTED)
    assert not seen


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("name", ["tokens", "tokens, remat"])
def test_the_same_volume_where_tokens_are_cut(traffic, place, name):
    seen = traffic[place, name]
    # Each all-reduce has become an all-gather and a reduce-scatter; the stream is begun and left once.
    gathered, gathered_bytes = seen["tensor", "all_gather"]
    scattered, scattered_bytes = seen["tensor", "reduce_scatter"]
    begun_and_left = 2 * MICRO_BATCHES
    halves = 2 * MICRO_BATCHES * sums(place, name, shared=True)
    assert gathered + scattered - begun_and_left == halves
    assert gathered_bytes + scattered_bytes == (halves + begun_and_left) * TOKENS
    if name == "tokens":
        assert scattered == gathered - begun_and_left
    # Gradients of norms are added up: weight and bias of two in each layer and of the last; and the head's.
    norms = 2 * LAYERS + (place == "pre")
    calls, payload = seen["tensor", "all_reduce"]
    assert calls == MICRO_BATCHES * (norms + 1)
    assert payload == MICRO_BATCHES * (norms * 2 * 2 * WIDTH + 2 * PREDICTED * WIDTH)
