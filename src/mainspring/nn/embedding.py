"""What enters the first layer: the sum of token, position and segment embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.nn.block import make_norm
from mainspring.nn.config import TransformerConfig


class Embeddings(nn.Module):
    """Token, absolute position and segment embeddings, with a norm and dropout where configured."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.token = nn.Embedding(config.rows, config.d_model)
        absolute = config.absolute
        self.offset = absolute.offset if absolute else 0
        self.position = nn.Embedding(config.max_positions + self.offset, config.d_model) if absolute else None
        self.segment = nn.Embedding(config.type_vocab, config.d_model) if config.type_vocab else None
        self.norm = make_norm(config) if config.embed_norm else None

    def forward(self, batch: TokenBatch, *, shared_positions: bool = False) -> Tensor:
        """Embed a batch.

        Args:
            batch: B rows of T tokens.
            shared_positions: every row has the same positions: they are looked up once.

        Returns:
            [B, T, d_model].
        """
        x: Tensor = self.token(batch.ids)
        if self.position is not None:
            pos = batch.pos[:1] if shared_positions else batch.pos
            x = x + self.position(pos + self.offset if self.offset else pos)
        if self.segment is not None:
            first = torch.zeros((1, 1), dtype=torch.int64, device=x.device)
            x = x + self.segment(first if batch.type is None else batch.type)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x
