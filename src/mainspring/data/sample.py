"""A bounded sample of texts that does not depend on their order: those with the smallest hashes that fit."""

from __future__ import annotations

import heapq
from collections.abc import Iterator


class HashSample:
    """Keeps the texts of smallest hash whose bytes fit the budget (bottom-k sampling, Cohen and Kaplan 2007).

    Args:
        budget: characters to keep, about; at least one text is kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._heap: list[tuple[int, str]] = []
        self._bound = 1 << 64

    def add(self, text: str, mark: int) -> None:
        """Consider a text with its 64-bit hash."""
        if mark >= self._bound:
            return
        heapq.heappush(self._heap, (-mark, text[: self.budget]))
        self.bytes += min(len(text), self.budget)
        while self.bytes > self.budget and len(self._heap) > 1:
            largest, dropped = heapq.heappop(self._heap)
            self._bound = -largest
            self.bytes -= len(dropped)

    def texts(self) -> Iterator[str]:
        """The texts kept, by hash."""
        return (text for _, text in sorted(self._heap, key=lambda entry: -entry[0]))

    def __len__(self) -> int:
        return len(self._heap)
