"""UniLM's published weight names: BERT's, with a bias of positions in v2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mainspring.models.bert.weights import WEIGHTS as BERT
from mainspring.models.transforms import Transpose
from mainspring.models.weights import Rule

WEIGHTS = replace(
    BERT,
    rules=(*BERT.rules, Rule("bias.table.weight", "bert.rel_pos_bias.weight", Transpose())),
    legacy={**BERT.legacy, "bert.encoder.rel_pos_bias.weight": "bert.rel_pos_bias.weight"},
)
"""Ours beside s2s-ft's."""

_FUSED = "attention.self.qkv_linear.weight"


def upgrade(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the names of a pre-training checkpoint of v2 into those of fine-tuning.

    There one matrix makes queries, keys and values, queries and values have a bias, and keys have none,
    which is the same as a bias of 0 (and as any other: it shifts all scores of a query alike).

    >>> import torch
    >>> fused = {"l.attention.self.qkv_linear.weight": torch.zeros(6, 2)}
    >>> fused |= {f"l.attention.self.{name}_bias": torch.ones(2) for name in "qv"}
    >>> sorted(name.removeprefix("l.attention.self.") for name in upgrade(fused))
    ['key.bias', 'key.weight', 'query.bias', 'query.weight', 'value.bias', 'value.weight']

    Args:
        theirs: tensors by published name; other layouts are returned as they are.
    """
    state = dict(theirs)
    for name in theirs:
        root = name.removesuffix(_FUSED)
        biases = [f"{root}attention.self.{part}_bias" for part in "qv"]
        if root == name or not all(bias in theirs for bias in biases):
            continue
        query, key, value = state.pop(name).chunk(3)
        bias, value_bias = (state.pop(bias) for bias in biases)
        for part, weight, vector in (
            ("query", query, bias),
            ("key", key, torch.zeros_like(bias)),
            ("value", value, value_bias),
        ):
            state[f"{root}attention.self.{part}.weight"] = weight
            state[f"{root}attention.self.{part}.bias"] = vector
    return state
