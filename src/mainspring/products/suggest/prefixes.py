"""Completions by prefix: a trie laid out as a sorted array, with the heaviest of any range found by halving.

All keys under a prefix are one range of the sorted keys; the k heaviest of a range come from a tree of maxima
in k log n steps (the structure of "top-k range maximum", Muthukrishnan 2002), whatever the range holds.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LAST = chr(0x10FFFF)


class Suggestion(NamedTuple):
    """A completion of what was typed."""

    text: str
    """The whole of it."""
    weight: float
    """How often it was asked, or how sure the model is; larger is better, within one kind."""
    kind: str
    """`query`, `title`, or `phrase` where a model wrote it."""


def normal(text: str) -> str:
    """What is compared: without case, and with one space between words.

    >>> normal("  The  QUICK fox ")
    'the quick fox '
    """
    words = " ".join(text.casefold().split())
    return words + " " if words and text[-1:].isspace() else words


class Prefixes:
    """Texts with weights, to be completed."""

    def __init__(self, weights: Mapping[str, float], kind: str) -> None:
        """`weights`: each text's; of texts that differ in case or spaces alone, the heaviest stands."""
        best: dict[str, tuple[float, str]] = {}
        for text, weight in weights.items():
            key = normal(text).strip()
            if key:
                best[key] = max(best.get(key, (float("-inf"), "")), (weight, text))
        self.kind = kind
        self._keys = sorted(best)
        self._texts = [best[key][1] for key in self._keys]
        self._tree = _maxima(np.asarray([best[key][0] for key in self._keys], dtype=np.float64))
        self._leaves = len(self._tree) // 2

    def __len__(self) -> int:
        return len(self._keys)

    def complete(self, typed: str, limit: int) -> list[Suggestion]:
        """The heaviest texts that begin as typed, without the one that was typed whole."""
        prefix = normal(typed).lstrip()
        if not prefix or not self._keys:
            return []
        start = bisect.bisect_left(self._keys, prefix)
        stop = bisect.bisect_right(self._keys, prefix + _LAST)
        found: list[Suggestion] = []
        for index, weight in self._heaviest(start, stop, limit + 1):
            if self._keys[index] != prefix.strip() and len(found) < limit:
                found.append(Suggestion(self._texts[index], weight, self.kind))
        return found

    def _heaviest(self, start: int, stop: int, limit: int) -> list[tuple[int, float]]:
        """Numbers and weights of the heaviest of a range; of equal ones the first."""
        heap: list[tuple[float, int, int]] = []
        low, high = start + self._leaves, stop + self._leaves
        while low < high:  # the nodes that cover the range
            for node in ((low,) if low & 1 else ()) + ((high - 1,) if high & 1 else ()):
                heapq.heappush(heap, (-float(self._tree[node]), self._first(node), node))
            low, high = (low + 1) // 2, high // 2
        found: list[tuple[int, float]] = []
        while heap and len(found) < limit:
            weight, _, node = heapq.heappop(heap)
            if node >= self._leaves:
                found.append((node - self._leaves, -weight))
                continue
            for child in (2 * node, 2 * node + 1):
                if self._tree[child] > -np.inf:
                    heapq.heappush(heap, (-float(self._tree[child]), self._first(child), child))
        return found

    def _first(self, node: int) -> int:
        """The first leaf under a node."""
        while node < self._leaves:
            node *= 2
        return node


def _maxima(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A tree over a power of two of leaves: node i has the larger of nodes 2i and 2i + 1."""
    leaves = 1 << max(0, len(weights) - 1).bit_length()
    tree = np.full(2 * leaves, -np.inf)
    tree[leaves : leaves + len(weights)] = weights
    first = leaves
    while first > 1:
        tree[first // 2 : first] = np.maximum(tree[first : 2 * first : 2], tree[first + 1 : 2 * first : 2])
        first //= 2
    return tree
