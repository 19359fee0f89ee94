"""A key-value cache whose tensors are a graph's inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch

Pair = tuple[Tensor, Tensor]
"""Keys and values, each [B, heads, tokens, head_dim]."""


class GraphLayer:
    """Keys and values of one layer: those that came in, then those of the new tokens."""

    def __init__(self, past: Pair, cross: Pair | None) -> None:
        self.present = past
        self.cross = cross
        """Of an encoder's output."""

    def append(self, keys: Tensor, values: Tensor) -> Pair:
        """Join [B, heads, T, head_dim] to what came in."""
        self.present = torch.cat([self.present[0], keys], 2), torch.cat([self.present[1], values], 2)
        return self.present


class GraphCache:
    """What a model asks of a cache, made of tensors.

    Args:
        past: keys and values of each layer.
        seen: data of the tokens that they are of.
        cross: keys and values of an encoder's output, of each layer.
        source: data of the encoder's tokens.
    """

    def __init__(
        self,
        past: Sequence[Pair],
        seen: TokenBatch,
        cross: Sequence[Pair] | None = None,
        source: TokenBatch | None = None,
    ) -> None:
        others: Sequence[Pair | None] = [None] * len(past) if cross is None else cross
        self.layers = [GraphLayer(pair, other) for pair, other in zip(past, others, strict=True)]
        self.source = source
        self._seen = seen

    def push(self, batch: TokenBatch) -> TokenBatch:
        """Data of all tokens: those seen before, then the batch's."""
        joined = {
            name: torch.cat([before, getattr(batch, name)], 1)
            for name, before in self._seen._asdict().items()
            if before is not None
        }
        return TokenBatch(**joined)
