"""Prefix reuse: keys and values of prompts that were read, for prompts that begin with the same tokens.

Kept in blocks of tokens that hang together as a tree: a block is known by the block before it and its own
tokens, compared exactly. What was used longest ago is forgotten first (Kwon et al. 2023, arXiv 2309.06180,
section 4.3, shares blocks in this way; here they are copied into a row's slot, which costs a hundredth of
reading them again).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mainspring.nn.slot_cache import SlotCache

_Key = tuple[int, tuple[int, ...]]
"""Number of the block before (0: none), and the block's own tokens."""


@dataclass(frozen=True, slots=True)
class _Block:
    number: int
    kv: Tensor
    data: Tensor

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes + self.data.nbytes


class PrefixStore:
    """Blocks of keys and values by the tokens that lead to them, bounded in bytes."""

    def __init__(self, limit: int, block: int) -> None:
        """`limit` in bytes; `block` in tokens."""
        self._limit, self._size = limit, block
        # Whoever uses a block uses those before it after it (`_touch`), so the oldest has none behind it.
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._last = 0
        self.nbytes = 0
        """Bytes kept."""

    def restore(self, tokens: Sequence[int], cache: SlotCache, slot: int) -> int:
        """Put what is kept of the beginning of `tokens` into an empty slot; how many tokens that is.

        The last token is never among them: somebody has to read it for the logits after it.
        """
        found = self._known(tokens, len(tokens) - 1)
        for index, key in enumerate(found):
            block = self._blocks[key]
            cache.write(slot, block.kv, block.data, start=index * self._size)
        self._touch(found)
        return len(found) * self._size

    def keep(self, tokens: Sequence[int], cache: SlotCache, slot: int) -> None:
        """Keep what a slot holds of `tokens`, which are those that it begins with, in whole blocks."""
        if self._size * cache.token_bytes > self._limit:
            return
        whole = min(len(tokens), cache.lengths[slot]) // self._size
        found = self._known(tokens, whole * self._size)
        before = self._blocks[found[-1]].number if found else 0
        for index in range(len(found), whole):
            start, stop = index * self._size, (index + 1) * self._size
            kv, data = (part.clone() for part in cache.read(slot, stop, start))
            self._last += 1
            block = _Block(self._last, kv, data)
            key = (before, tuple(tokens[start:stop]))
            self._blocks[key] = block
            self.nbytes += block.nbytes
            found.append(key)
            before = block.number
        self._touch(found)
        while self.nbytes > self._limit:
            self.nbytes -= self._blocks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self.nbytes = 0

    def _known(self, tokens: Sequence[int], stop: int) -> list[_Key]:
        """The blocks kept of `tokens` up to `stop`, from the first on."""
        found: list[_Key] = []
        before = 0
        for start in range(0, stop - self._size + 1, self._size):
            key = (before, tuple(tokens[start : start + self._size]))
            block = self._blocks.get(key)
            if block is None:
                break
            found.append(key)
            before = block.number
        return found

    def _touch(self, keys: Sequence[_Key]) -> None:
        for key in reversed(keys):
            self._blocks.move_to_end(key)
