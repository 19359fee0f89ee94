"""XLM-E's weight names. None are published: RoBERTa's, ELECTRA's head, and the gates as the authors name
them in WavLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mainspring.models.bert_like import linear_or_norm
from mainspring.models.roberta.weights import roberta_weights
from mainspring.models.weights import Rule
from mainspring.nn.config import TransformerConfig

_SELF = "roberta.encoder.layer.{i}.attention.self"


@dataclass(frozen=True)
class SummedGates:
    """Their linear map has four outputs for each of the two gates, which are summed: one is enough."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """Rows [gate, 4] to rows [gate]."""
        rows = theirs[0]
        return rows.reshape(2, 4, *rows.shape[1:]).sum(dim=1)

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """Rows [gate] to rows [gate, 4], of which the last three are 0."""
        rows = ours.new_zeros(2, 4, *ours.shape[1:])
        rows[:, 0] = ours
        return [rows.reshape(8, *ours.shape[1:])]


@dataclass(frozen=True)
class HeadScale:
    """Their scale of the gates has a dimension for rows, queries and keys."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """[1, heads, 1, 1] to [heads]."""
        return theirs[0].reshape(-1)

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """[heads] to [1, heads, 1, 1]."""
        return [ours.reshape(1, -1, 1, 1)]


WEIGHTS = roberta_weights(
    Rule("bias.table.weight", "roberta.encoder.rel_attn_embed.weight"),
    *(
        Rule(f"layers.{{i}}.attention.gate.gates.{kind}", f"{_SELF}.gru_rel_pos_linear.{kind}", SummedGates())
        for kind in ("weight", "bias")
    ),
    Rule("layers.{i}.attention.gate.scale", f"{_SELF}.gru_rel_pos_const", HeadScale()),
    *linear_or_norm("head.dense", "discriminator_predictions.dense"),
    *linear_or_norm("head.score", "discriminator_predictions.dense_prediction"),
)
"""Ours beside those names."""
