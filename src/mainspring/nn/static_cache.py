"""A key-value cache of fixed shape, so that a step of decoding can be compiled once.

Each row has `capacity` slots and a length of its own; where tokens go, and who is seen, are data. Nothing of
a step's shape depends on how much is stored. The cache is made of plain tensors (`allocate`), which a
compiled step takes as its inputs and writes in place.

Legend: B rows, T tokens of a forward, C slots, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.nn.config import TransformerConfig


class StaticLayer:
    """Keys and values of one layer, each [B, C, H, E]."""

    def __init__(self, cache: StaticCache, keys: Tensor, values: Tensor) -> None:
        self._cache, self._keys, self._values = cache, keys, values
        self.cross: tuple[Tensor, Tensor] | None = None
        """Keys and values of an encoder's output, each [B, H, S, E], once it has been seen."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, H, T, E] where `push` said and return all slots, [B, H, C, E]."""
        at = self._cache.rows, self._cache.place
        self._keys.index_put_(at, keys.transpose(1, 2))
        self._values.index_put_(at, values.transpose(1, 2))
        return self._keys.transpose(1, 2), self._values.transpose(1, 2)


class StaticCache:
    """Keys, values and token data of rows of fixed capacity, for `forward(cache=)`.

    Args:
        tensors: what `allocate` made: lengths int64 [B], rank and position int64 [B, C], then keys and values
            of each layer.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.lengths, self._rank, self._pos, *buffers = tensors
        self.layers = [StaticLayer(self, k, v) for k, v in zip(buffers[::2], buffers[1::2], strict=True)]
        rows = self._rank.shape[0]
        self.rows = torch.arange(rows, device=self._rank.device)[:, None]
        """Row numbers, [B, 1]."""
        self.place = self._rank[:, :0]
        """Slots of the tokens of this forward, [B, T]."""
        self.source: TokenBatch | None = None
        """Token data of the encoder's input, once it has been seen."""

    @staticmethod
    def allocate(
        config: TransformerConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
        heads: int | None = None,
    ) -> list[Tensor]:
        """The tensors of an empty cache. Zeros: what is masked is multiplied by 0 and must be finite."""
        shape = (rows, capacity, heads or config.n_heads, config.head_width)
        data = [torch.zeros((rows, capacity), dtype=torch.int64, device=device) for _ in range(2)]
        kv = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2 * config.depth)]
        return [torch.zeros(rows, dtype=torch.int64, device=device), *data, *kv]

    def push(self, batch: TokenBatch) -> TokenBatch:
        """Store the data of the tokens about to be seen and return the data of all slots.

        Padding stands on the right; it is stored behind a row's tokens, where the next ones overwrite it.
        """
        count = batch.ids.shape[1]
        capacity = self._rank.shape[1]
        index = torch.arange(capacity, device=self._rank.device)
        self.place = self.lengths[:, None] + index[:count]
        self._rank.index_put_((self.rows, self.place), batch.rank)
        self._pos.index_put_((self.rows, self.place), batch.pos)
        self.lengths.add_(count if batch.valid is None else batch.valid.sum(1))
        valid = index < self.lengths[:, None]
        return TokenBatch(torch.zeros_like(self._rank), self._pos, self._rank, valid=valid)
