"""How much oftener two words stand beside one another than chance has it: a table of hashes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

STEPS = 16.0
"""Steps of a byte in a unit of log ratio, from `LEAST` on."""
LEAST = -4.0
UNSEEN = -1.5
"""Log ratio of neighbours that were never met."""


def key(left: str, right: str) -> int:
    """A number for a pair of words.

    >>> key("a", "lot") != key("lot", "a")
    True
    """
    return zlib.crc32(f"{left}\t{right}".encode("utf-8", "surrogatepass"))


class Bigrams:
    """Log ratios log p(ab) / p(a) p(b) of pairs of words."""

    def __init__(self, keys: NDArray[np.uint32], values: NDArray[np.uint8]) -> None:
        """Take keys in order and a byte for each."""
        self.keys, self.values = keys, values

    @classmethod
    def of(cls, ratios: Mapping[tuple[str, str], float]) -> Bigrams:
        """From pairs with their log ratios."""
        by_key = {key(a, b): ratio for (a, b), ratio in ratios.items()}
        keys = np.array(sorted(by_key), np.uint32)
        values = np.array([by_key[int(k)] for k in keys])
        coded = np.clip(np.round((values - LEAST) * STEPS), 0, 255).astype(np.uint8)
        return cls(keys, coded)

    def __len__(self) -> int:
        return len(self.keys)

    def ratio(self, left: str, right: str) -> float | None:
        """The log ratio of a pair; None of one that was never met."""
        wanted = np.uint32(key(left, right))
        at = int(np.searchsorted(self.keys, wanted))
        if at == len(self.keys) or self.keys[at] != wanted:
            return None
        return float(self.values[at]) / STEPS + LEAST

    def beside(self, left: str | None, word: str, right: str | None) -> float:
        """How well a word fits between two others: the sum of its log ratios with them; `UNSEEN` for each
        that was never met."""
        total = 0.0
        for a, b in ((left, word), (word, right)):
            if a is not None and b is not None:
                found = self.ratio(a, b)
                total += UNSEEN if found is None else found
        return total
