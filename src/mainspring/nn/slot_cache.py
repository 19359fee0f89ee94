"""A key-value cache of rows that do not go in step: each slot has a length of its own.

Rows of a running batch join and leave at any time (Yu et al. 2022, Orca, section 4), so a row is a slot that
is filled, copied and forgotten by itself. Buffers grow with what is stored, slots and tokens alike, and are
given back when nothing is. A forward works on some of the slots (`SlotCache.rows`): those that lie side by
side are read in place, others through a copy.

Legend: L layers, S slots, C capacity in tokens, R rows of a forward, T tokens of the longest, N tokens of the
forward without padding, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.errors import UsageError
from mainspring.nn.config import TransformerConfig

SMALLEST = 64
"""Tokens of capacity that a cache begins with."""


class SlotCache:
    """Keys, values and token data of up to `slots` rows of up to `context` tokens."""

    def __init__(
        self,
        config: TransformerConfig,
        slots: int,
        context: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        heads: int | None = None,
    ) -> None:
        """`config` is that of a model without an encoder; keys and values are of `dtype`, on `device`.

        `heads`: those that are in this process (None: all).
        """
        self.slots, self.context = slots, context
        self.lengths = [0] * slots
        """Tokens stored in each slot."""
        self.heads = config.n_heads if heads is None else heads
        self.width, self.layers = config.head_width, config.depth
        self._dtype, self._device = dtype, torch.device(device)
        self.kv, self.data = self._buffers(0, 0)
        """Keys and values [L, 2, S, C, H E]; rank and position int64 [2, S, C]."""

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of a token."""
        return 2 * self.layers * self.heads * self.width * self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers for keys and values, as they are now."""
        return self.kv.nbytes

    def rows(self, slots: Sequence[int], counts: Sequence[int]) -> SlotRows:
        """What a model takes as its cache to read `counts[r]` more tokens into slot `slots[r]`.

        Raises:
            UsageError: a row would be longer than the context.
        """
        lengths = [self.lengths[slot] for slot in slots]
        longest = max(length + count for length, count in zip(lengths, counts, strict=True))
        if longest > self.context:
            raise UsageError(
                f"a row would have {longest} tokens and the cache holds {self.context} a row; "
                "shorten the row, or make a cache of more context"
            )
        # A forward tells by the number of keys whether there are any beside its own tokens.
        reach = max(longest, max(counts) + 1) if any(lengths) else longest
        self._grow(max(slots) + 1, reach)
        return SlotRows(self, slots, counts, reach)

    def truncate(self, slot: int, length: int) -> None:
        """Forget all tokens of a slot but the first `length`."""
        assert 0 <= length <= self.lengths[slot], f"{length} of {self.lengths[slot]} tokens"
        self.lengths[slot] = length

    def copy(self, source: int, target: int) -> None:
        """Make a slot hold what another holds."""
        self._grow(max(source, target) + 1, self.lengths[source])
        self.write(target, *self.read(source, self.lengths[source]))

    def swap(self, one: int, other: int) -> None:
        """Exchange what two slots hold."""
        kv, data = (part.clone() for part in self.read(one, self.lengths[one]))
        self.copy(other, one)
        self.write(other, kv, data)

    def read(self, slot: int, stop: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values [L, 2, n, H E] and data [2, n] of a slot's tokens, as views."""
        self._grow(slot + 1, stop)
        return self.kv[:, :, slot, start:stop], self.data[:, slot, start:stop]

    def write(self, slot: int, kv: Tensor, data: Tensor, start: int = 0) -> None:
        """Put what `read` gave into a slot, from token `start` on; what followed is forgotten."""
        stop = start + kv.shape[2]
        self._grow(slot + 1, stop)
        self.kv[:, :, slot, start:stop], self.data[:, slot, start:stop] = kv, data
        self.lengths[slot] = stop

    def by_layer(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of each layer as views [S, H, C, E], E dense."""
        heads = self.kv.view(*self.kv.shape[:-1], self.heads, self.width).transpose(3, 4)
        return list(heads[:, 0]), list(heads[:, 1])

    def release(self) -> None:
        """Forget everything and give the buffers back."""
        self.lengths = [0] * self.slots
        self.kv, self.data = self._buffers(0, 0)

    def _grow(self, slots: int, tokens: int) -> None:
        """Room for so many, twice as much each time, so that what is copied stays below what is stored."""
        had, room = self.kv.shape[2:4]
        if slots <= had and tokens <= room:
            return
        if slots > had:
            slots = max(slots, min(2 * had, self.slots))
        if tokens > room:
            tokens = max(tokens, min(max(2 * room, SMALLEST), self.context + 1))
        kv, data = self._buffers(max(slots, had), max(tokens, room))
        kv[:, :, :had, :room], data[:, :had, :room] = self.kv, self.data
        self.kv, self.data = kv, data

    def _buffers(self, slots: int, tokens: int) -> tuple[Tensor, Tensor]:
        shape = (self.layers, 2, slots, tokens, self.heads * self.width)
        # What is made in inference mode cannot be written to outside of it. Zeros, because what is masked is
        # multiplied by 0, and must be finite for that.
        with torch.inference_mode(False):
            kv = torch.zeros(shape, dtype=self._dtype, device=self._device)
            return kv, torch.zeros((2, slots, tokens), dtype=torch.int64, device=self._device)


class SlotLayer:
    """Keys and values of one layer in the rows of a forward."""

    def __init__(self, rows: SlotRows, number: int) -> None:
        self._rows, self._number = rows, number
        self.cross: tuple[Tensor, Tensor] | None = None
        """Nothing: models with an encoder do not take this cache."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [R, H, T, E] and return what is stored, [R, H, stored, E]."""
        k, v = (self._rows.store(self._number, part, t) for part, t in enumerate((keys, values)))
        return k, v


class SlotRows:
    """Some slots of a cache for one forward, in which each row reads tokens from its own place on.

    The rows of the batch are padded on the right to the longest of `counts`.
    """

    def __init__(self, cache: SlotCache, slots: Sequence[int], counts: Sequence[int], reach: int) -> None:
        self._cache, self._slots, self._counts, self._reach = cache, slots, counts, reach
        self.source: TokenBatch | None = None
        """Nothing, as `SlotLayer.cross`."""
        self.layers = [SlotLayer(self, number) for number in range(cache.layers)]
        device, room = cache.kv.device, cache.kv.shape[3]
        starts = torch.tensor([slot * room + cache.lengths[slot] for slot in slots])
        width, number = max(counts), torch.tensor(counts)
        index = torch.arange(width)
        places, real = starts[:, None] + index, index < number[:, None]
        padded = min(counts) < width
        self._places = (places[real] if padded else places.reshape(-1)).to(device)
        self._real = real.to(device) if padded else None
        together = list(slots) == list(range(slots[0], slots[0] + len(slots)))
        self._index = None if together else torch.tensor(slots, device=device)
        self._ends = torch.tensor([cache.lengths[slot] for slot in slots], device=device) + number.to(device)

    def push(self, batch: TokenBatch) -> TokenBatch:
        """Store the data of the tokens about to be seen and return the data of all that their rows hold."""
        assert batch.ids.shape == (len(self._slots), max(self._counts)), "the batch is not the rows announced"
        data = self._cache.data
        for number, told in enumerate((batch.rank, batch.pos)):
            flat = told.reshape(-1) if self._real is None else told[self._real]
            data[number].view(-1).index_copy_(0, self._places, flat)
        for slot, count in zip(self._slots, self._counts, strict=True):
            self._cache.lengths[slot] += count
        rank, pos = self._taken(data[0]), self._taken(data[1])
        valid = torch.arange(self._reach, device=rank.device) < self._ends[:, None]
        return TokenBatch(torch.zeros_like(rank), pos, rank, valid=valid)

    def store(self, layer: int, part: int, new: Tensor) -> Tensor:
        """Store keys (part 0) or values (part 1) [R, H, T, E] of a layer; all that is stored of them."""
        cache = self._cache
        buffer = cache.kv[layer, part]
        rows = new.transpose(1, 2)
        flat = rows.reshape(-1, buffer.shape[-1]) if self._real is None else rows[self._real].flatten(1)
        buffer.view(-1, buffer.shape[-1]).index_copy_(0, self._places, flat)
        taken = self._taken(buffer)
        return taken.view(*taken.shape[:-1], cache.heads, cache.width).transpose(1, 2)

    def _taken(self, buffer: Tensor) -> Tensor:
        """The rows of a buffer [S, C, ...], up to the longest: [R, reach, ...]."""
        if self._index is not None:
            return buffer[:, : self._reach].index_select(0, self._index)
        return buffer[self._slots[0] : self._slots[0] + len(self._slots), : self._reach]
