"""What leaves the last layer: logits over the vocabulary, and a row's summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mainspring.nn.block import make_norm
from mainspring.nn.config import TransformerConfig
from mainspring.nn.feed_forward import activate
from mainspring.nn.linear import Linear
from mainspring.nn.lookup import Table
from mainspring.nn.peers import ALONE, Along, Peers
from mainspring.nn.vocabulary import WHOLE, Vocabulary

Columns = Literal["all", "own"]
"""Logits that a head gives: of all tokens, or of those whose rows are in this process."""


class LanguageHead(nn.Module):
    """Scores of the next (or hidden) token: an optional transform, then a product with a table of tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.vocabulary: Vocabulary = WHOLE
        self.vocab_size, self.rows = config.vocab_size, config.rows
        self.activation = activate(config.activation)
        width, transform = config.embed_width, config.head_transform
        self.transform = Linear(config.d_model, width, bias=config.bias) if transform else None
        self.norm = make_norm(config, width) if transform else None
        self.table = None if config.tied else Table(config.rows, width)
        self.bias = nn.Parameter(torch.zeros(config.rows)) if config.head_bias else None

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By tokens."""
        return dict.fromkeys(("table.weight", "bias"), Along(0, self.rows, "tokens", even=False))

    def forward(self, hidden: Tensor, embedding: Table, columns: Columns = "all") -> Tensor:
        """Logits of each token.

        Args:
            hidden: [..., d_model].
            embedding: the table of tokens, rows of embed_width, used where the head has none of its own.
            columns: "own" leaves out logits of tokens whose rows other ranks have (`vocabulary`).

        Returns:
            [..., vocab_size]: rows of the table that only pad the vocabulary are left out.
        """
        if self.transform is not None and self.norm is not None:
            hidden = self.norm(self.activation(self.transform(hidden)))
        table = embedding if self.table is None else self.table
        count = max(self.vocab_size - self.vocabulary.first, 0)
        bias = None if self.bias is None else self.bias[:count]
        (hidden,) = self.peers.share(hidden)
        logits = table.scores(hidden, count, bias)
        return logits if columns == "own" else self.vocabulary.gather(logits)


class ReplacedHead(nn.Module):
    """Score of each token having been replaced (Clark et al. 2020, section 2): a dense layer, then a sum.

    With a context, tokens come with their row's first one added, and a norm goes before (He et al. 2023,
    arXiv 2111.09543, as published).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = activate(config.activation)
        self.context_norm = make_norm(config) if config.head_context else None
        self.dense = Linear(config.d_model, config.d_model)
        self.score = Linear(config.d_model, 1)

    def forward(self, hidden: Tensor, embedding: Table, columns: Columns = "all") -> Tensor:
        """hidden [..., d_model] -> [..., 1], above 0 where replaced is likelier; the rest is not used."""
        hidden = hidden if self.context_norm is None else self.context_norm(hidden)
        scores: Tensor = self.score(self.activation(self.dense(hidden)))
        return scores


class NoHead(nn.Module):
    """The head of a bare encoder: logits without columns."""

    def forward(self, hidden: Tensor, embedding: Table, columns: Columns = "all") -> Tensor:
        """hidden [..., d_model] -> [..., 0]."""
        return hidden[..., :0]


def make_head(config: TransformerConfig) -> LanguageHead | ReplacedHead | NoHead:
    """The head that the configuration names."""
    if config.head == "tokens":
        return LanguageHead(config)
    return ReplacedHead(config) if config.head == "replaced" else NoHead()


class Pooler(nn.Module):
    """A summary of each row from its first token (Devlin et al. 2019), and scores of row-pair classes."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.d_model, config.d_model)
        self.activation = torch.tanh if config.pooler_activation == "tanh" else activate("gelu")
        self.pair = Linear(config.d_model, config.pair_classes) if config.pair_classes else None

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """hidden [B, T, D] -> summary [B, D] and class scores [B, pair_classes], if there are any."""
        summary = self.activation(self.dense(hidden[:, 0]))
        return summary, None if self.pair is None else self.pair(summary)
