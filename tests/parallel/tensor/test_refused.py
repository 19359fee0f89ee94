"""What cannot be shared out is refused, with what can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mainspring import parallel
from mainspring.data.batch import causal_batch
from mainspring.errors import PlanError, UsageError
from mainspring.nn import KVCache, Transformer, TransformerConfig, initialize
from mainspring.nn.peers import Alone
from mainspring.parallel import Axes, Plan
from mainspring.planner.fake import fake_world

SHAPE = {"d_model": 48, "n_heads": 12, "n_layers": 1, "d_ff": 96, "vocab_size": 7}


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (5, r"layers.0.attention.qkv.weight has 12 heads, which 5 .* nearest legal plan.tensor: 4 or 6"),
        (24, r"nearest legal plan.tensor: 4 or 6"),  # 12 is one of heads, but there are 7 tokens
        (12, r"embeddings.token.weight has 7 tokens, which 12 .* nearest legal plan.tensor: 4 or 6"),
    ],
)
def test_units_that_do_not_divide(size, said):
    with torch.device("meta"):
        model = Transformer(TransformerConfig(**SHAPE))
    with fake_world(size), pytest.raises(PlanError, match=said):
        parallel.apply(model, Plan(tensor=size))


def test_a_vocabulary_need_not_divide():
    with torch.device("meta"):
        model = Transformer(TransformerConfig(**SHAPE))
    rows = []
    for rank in range(4):
        with torch.device("meta"):
            model = Transformer(TransformerConfig(**SHAPE))
        with fake_world(4, rank):
            axes = Axes.of(Plan(tensor=4))
            parallel.apply(model, Plan(tensor=4), axes=axes)
            rows.append(len(model.embeddings.token.weight))
    assert rows == [1, 2, 2, 2]


def test_a_stream_that_is_cut_takes_no_cache():
    model = initialize(Transformer(TransformerConfig(**SHAPE)), seed=0)
    model.peers = Cut()
    with torch.inference_mode(), pytest.raises(UsageError, match="set plan.tensor_sequence = false"):
        model(causal_batch(torch.zeros((1, 2), dtype=torch.int64)), cache=KVCache(model.config, 1, 4))


class Cut(Alone):
    token_parts = 2


def test_a_model_that_says_nothing_needs_rules():
    with fake_world(2), pytest.raises(PlanError, match="rules by module path, or set plan.tensor = 1"):
        parallel.apply(nn.Linear(4, 4), Plan(tensor=2))
