"""A bounded sample of texts that does not depend on their order: those with the smallest hashes that fit."""

from __future__ import annotations

import heapq
from collections.abc import Iterator


class HashSample:
    """Keeps the texts of smallest hash whose bytes fit the budget (bottom-k sampling, Cohen and Kaplan 2007).

    Args:
        budget: UTF-8 bytes to keep, at most; but at least one text, cut to that many characters, is kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._heap: list[tuple[int, str, int]] = []
        self._bound = 1 << 64

    def add(self, text: str, mark: int, size: int) -> None:
        """Consider a text with its 64-bit hash and its size in bytes."""
        if mark >= self._bound:
            return
        if size > self.budget:
            text, size = text[: self.budget], self.budget
        heapq.heappush(self._heap, (-mark, text, size))
        self.bytes += size
        while self.bytes > self.budget and len(self._heap) > 1:
            largest, _, dropped = heapq.heappop(self._heap)
            self._bound = -largest
            self.bytes -= dropped

    def texts(self) -> Iterator[str]:
        """The texts kept, by hash."""
        return (text for _, text, _ in sorted(self._heap, key=lambda entry: -entry[0]))

    def __len__(self) -> int:
        return len(self._heap)
