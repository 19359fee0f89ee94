"""What each row already holds, for the options that hold a model back from saying it again.

Shapes: B rows, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.infer.logits import penalize_repetition
from mainspring.infer.options import GenerateOptions


class History:
    """The tokens of every row, kept in step with the rows of a batch."""

    def __init__(self, rows: Sequence[Sequence[int]], like: Tensor, options: GenerateOptions) -> None:
        """Begin with the tokens of `rows`; width and device of `like` [B, V]."""
        self._penalty, self._size = options.repetition_penalty, options.no_repeat_ngram
        self._rows = [list(row) for row in rows] if self._size else []
        self._width = like.shape[-1]
        self._seen: Tensor | None = None
        if self._penalty != 1.0:
            self._seen = torch.zeros((len(rows), like.shape[-1]), dtype=torch.bool, device=like.device)
            for k, row in enumerate(rows):
                self._seen[k, torch.tensor(row, dtype=torch.int64, device=like.device)] = True

    def penalize(self, logits: Tensor) -> Tensor:
        """Lower the tokens that a row holds, by the repetition penalty. [B, V] -> [B, V]."""
        return logits if self._seen is None else penalize_repetition(logits, self._seen, self._penalty)

    def blocked(self, device: torch.device) -> Tensor | None:
        """The tokens that would repeat an n-gram of their row, bool [B, V]; None: no matter.

        Source: Paulus et al. 2018 (arXiv 1705.04304), section 2.5. A row in which that leaves no token is
        free.
        """
        if not self._size:
            return None
        blocked = torch.zeros((len(self._rows), self._width), dtype=torch.bool)
        for k, row in enumerate(self._rows):
            blocked[k, list(repeating(row, self._size))] = True
        return (blocked & ~blocked.all(-1, keepdim=True)).to(device)

    def add(self, tokens: Sequence[int]) -> None:
        """One more token in each row."""
        for row, token in zip(self._rows, tokens, strict=bool(self._size)):
            row.append(token)
        if self._seen is not None:
            index = torch.tensor(tokens, dtype=torch.int64, device=self._seen.device)
            self._seen.scatter_(1, index[:, None], True)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may be repeated or left out."""
        if self._size:
            self._rows = [list(self._rows[row]) for row in rows]
        if self._seen is not None:
            self._seen = self._seen[torch.tensor(rows, dtype=torch.int64, device=self._seen.device)]


def repeating(row: Sequence[int], size: int) -> set[int]:
    """Tokens that would end `row` with `size` tokens that it already holds side by side.

    >>> repeating([1, 2, 3, 1, 2], 3)
    {3}
    """
    start = len(row) - size + 1
    if start < 0:
        return set()
    last = list(row[start:])
    return {row[k + size - 1] for k in range(start) if list(row[k : k + size - 1]) == last}
