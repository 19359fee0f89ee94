"""The key-value cache of decoding: what each layer has seen, and the data of the tokens it was.

A decoding cache is "tokens already seen": masks over it are the one rule (nn.masks) on the stored tokens'
data, so prompts of different length need nothing special: padding is stored with valid=False and never
seen, and later tokens carry each row's own positions and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.errors import UsageError
from mainspring.nn.config import TransformerConfig


class Store(Protocol):
    """What one layer asks of a cache."""

    cross: tuple[Tensor, Tensor] | None
    """Keys and values of an encoder's output, once it has been seen."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, heads, T, head_dim] and return all that is stored, [B, heads, stored, head_dim]."""
        ...


class Cache(Protocol):
    """What a model asks of a cache: `KVCache` for rows that go in step, `SlotRows` for rows that do not."""

    source: TokenBatch | None
    """Token data of the encoder's input, once it has been seen."""

    @property
    def layers(self) -> Sequence[Store]:
        """One for each layer."""
        ...

    def push(self, batch: TokenBatch) -> TokenBatch:
        """Store the data of the tokens about to be seen and return the data of all stored."""
        ...


class LayerCache:
    """Keys and values of one layer, [rows, heads, capacity, head_dim]: `length` slots are in use."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values, self.length = keys, values, 0
        self.cross: tuple[Tensor, Tensor] | None = None
        """Keys and values of an encoder's output, each [rows, heads, S, head_dim], once it has been seen."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, heads, T, head_dim] and return all that is stored, as views."""
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.stored()

    def stored(self) -> tuple[Tensor, Tensor]:
        """What is stored, as views."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in the given order."""
        if rows.numel() == self.keys.shape[0]:
            for buffer, used in zip((self.keys, self.values), self.stored(), strict=True):
                buffer[:, :, : self.length] = used.index_select(0, rows)
        else:
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        if self.cross is not None:
            self.cross = self.cross[0].index_select(0, rows), self.cross[1].index_select(0, rows)


class KVCache:
    """Keys, values and token data of `rows` rows of up to `capacity` tokens, for `forward(cache=)`.

    With an encoder-decoder the first forward also stores the encoder's keys and values for every decoder
    layer. Keep the cache within `torch.no_grad()` or `torch.inference_mode()`: no gradient passes through
    it.
    """

    def __init__(
        self,
        config: TransformerConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        heads: int | None = None,
    ) -> None:
        """`heads`: of those of each layer that are in this process (None: all)."""
        shape = (rows, heads or config.n_heads, capacity, config.head_width)
        self.layers = [
            LayerCache(
                torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
            )
            for _ in range(config.depth)
        ]
        self.capacity = capacity
        self.source: TokenBatch | None = None
        """Token data of the encoder's input, once it has been seen."""
        empty = torch.zeros((rows, capacity), dtype=torch.int64, device=device)
        self._rank, self._pos, self._doc = empty, empty.clone(), empty.clone()
        self._valid = torch.zeros((rows, capacity), dtype=torch.bool, device=device)
        self._probe = self._valid.clone()
        self._length = 0
        self._has_doc = self._has_padding = self._has_probe = False

    @property
    def length(self) -> int:
        """Tokens stored in each row, padding included."""
        return self._length

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._rank.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers for keys and values."""
        return sum(t.nbytes for s in self.layers for t in (s.keys, s.values, *(s.cross or ())))

    def push(self, batch: TokenBatch) -> TokenBatch:
        """Store the data of the tokens about to be seen and return the data of all stored (ids are not kept).

        Raises:
            UsageError: the rows differ in number, or the capacity does not suffice.
        """
        rows, count = batch.ids.shape
        if rows != self.rows:
            raise UsageError(
                f"the batch has {rows} rows and the cache {self.rows}; make a cache of {rows} rows, "
                f"or call cache.select"
            )
        start, end = self._length, self._length + count
        if end > self.capacity:
            raise UsageError(
                f"the cache holds {self.capacity} tokens a row; {start} are stored and {count} more do "
                f"not fit; make it with capacity {end} or more"
            )
        self._rank[:, start:end], self._pos[:, start:end] = batch.rank, batch.pos
        self._doc[:, start:end] = 0 if batch.doc is None else batch.doc
        self._valid[:, start:end] = True if batch.valid is None else batch.valid
        self._probe[:, start:end] = False if batch.probe is None else batch.probe
        self._has_doc |= batch.doc is not None
        self._has_padding |= batch.valid is not None
        self._has_probe |= batch.probe is not None
        self._length = end
        return self.tokens()

    def tokens(self) -> TokenBatch:
        """Data of the stored tokens, as views; ids stand at 0."""
        end = self._length
        rank = self._rank[:, :end]
        return TokenBatch(
            ids=torch.zeros((), dtype=torch.int64, device=rank.device).expand_as(rank),
            pos=self._pos[:, :end],
            rank=rank,
            probe=self._probe[:, :end] if self._has_probe else None,
            doc=self._doc[:, :end] if self._has_doc else None,
            valid=self._valid[:, :end] if self._has_padding else None,
        )

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length` of each row (a probe's, after its prediction is read)."""
        if not 0 <= length <= self._length:
            raise UsageError(
                f"cannot keep {length} tokens of {self._length} stored; give 0 to {self._length}"
            )
        self._length = length
        for layer in self.layers:
            layer.length = length

    def select(self, rows: Tensor) -> None:
        """Keep the given rows in the given order, repeats allowed: reorder beams, drop rows that ended.

        Args:
            rows: row numbers, int64 [R].
        """
        for layer in self.layers:
            layer.select(rows)
        self._rank, self._pos, self._doc, self._valid, self._probe = (
            data.index_select(0, rows)
            for data in (self._rank, self._pos, self._doc, self._valid, self._probe)
        )
        if self.source is not None:
            taken = {
                name: t.index_select(0, rows) for name, t in self.source._asdict().items() if t is not None
            }
            self.source = TokenBatch(**taken)
