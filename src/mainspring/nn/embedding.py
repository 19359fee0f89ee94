"""What enters the first layer: the sum of token, position, segment and language embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.nn.block import make_norm
from mainspring.nn.config import TransformerConfig
from mainspring.nn.linear import Linear
from mainspring.nn.lookup import Embedding, Table
from mainspring.nn.peers import ALONE, Along, Peers
from mainspring.nn.positions import sinusoids
from mainspring.nn.vocabulary import WHOLE, Vocabulary


class Embeddings(nn.Module):
    """Token, position, segment and language embeddings; a norm, dropout, projection where configured."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.vocabulary: Vocabulary = WHOLE
        self.rows = config.rows
        self.dropout = config.dropout
        width = config.embed_width
        self.scale = width**0.5 if config.scale_embeddings else 1.0
        self.token = Table(config.rows, width)
        absolute, self.waves = config.absolute, config.sinusoidal is not None
        scheme = absolute or config.sinusoidal
        self.offset = scheme.offset if scheme else 0
        self.position = Embedding(config.max_positions + self.offset, width) if absolute else None
        self.segment = Embedding(config.type_vocab, width) if config.type_vocab else None
        self.language = Embedding(config.languages, width) if config.languages else None
        self.norm = make_norm(config, width) if config.embed_norm else None
        self.mask = config.embed_mask
        self.biased = absolute is None or absolute.place == "input"
        """Whether positions are added to what enters the first layer."""
        self.project = Linear(width, config.d_model) if width != config.d_model else None

    @property
    def cuts(self) -> Mapping[str, Along]:
        """The table of tokens, by tokens."""
        return {"token.weight": Along(0, self.rows, "tokens", even=False)}

    def forward(self, batch: TokenBatch, *, shared_positions: bool = False) -> Tensor:
        """Embed a batch.

        Args:
            batch: B rows of T tokens.
            shared_positions: every row has the same positions: they are looked up once.

        Returns:
            [B, T, d_model].
        """
        x = self.vocabulary.embed(self.token, batch.ids)
        if self.scale != 1.0:
            x = x * self.scale
        if (self.position is not None or self.waves) and self.biased:
            pos = batch.pos[:1] if shared_positions else batch.pos
            pos = pos + self.offset if self.offset else pos
            x = x + (sinusoids(pos, x.shape[-1], x.dtype) if self.position is None else self.position(pos))
        for table, chosen in ((self.segment, batch.type), (self.language, batch.lang)):
            if table is not None:
                first = torch.zeros((1, 1), dtype=torch.int64, device=x.device)
                x = x + table(first if chosen is None else chosen)
        if self.norm is not None:
            x = self.norm(x)
        if self.mask and batch.valid is not None:
            x = x * batch.valid[..., None]
        x = F.dropout(x, self.dropout) if self.training and self.dropout else x
        return x if self.project is None else self.project(x)
