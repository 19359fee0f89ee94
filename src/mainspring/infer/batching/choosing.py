"""Tokens for rows that were asked for in different ways: each gets what it would get alone.

Rows that filter alike are filtered together; those held back by what they already hold go one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from mainspring.infer.decode import choose
from mainspring.infer.history import History
from mainspring.infer.options import GenerateOptions


class Chooser:
    """The settings, random draws and history of one row."""

    def __init__(self, options: GenerateOptions, generator: Generator, said: Sequence[int]) -> None:
        """`said`: the tokens that count as said before, for the options on repetition."""
        self.options, self.generator = options, generator
        self._said = list(said) if options.remembers else []
        self._history: History | None = None

    @property
    def filters(self) -> tuple[float, int, float]:
        """What rows without a history have to share to be filtered together."""
        options = self.options
        return options.temperature, options.top_k, options.top_p

    def history(self, like: Tensor) -> History:
        """The row's history; width and device of `like` [1, V]."""
        if self._history is None:
            self._history = History([self._said], like, self.options)
        return self._history


def choose_tokens(choosers: Sequence[Chooser], logits: Sequence[Tensor]) -> list[int]:
    """One token for each row. logits: [V] of each."""
    tokens = [0] * len(choosers)
    alike: dict[tuple[float, int, float], list[int]] = {}
    for k, chooser in enumerate(choosers):
        if chooser.options.remembers:
            row = logits[k][None]
            history = chooser.history(row)
            (tokens[k],) = choose(row, history, chooser.options, [chooser.generator]).tolist()
            history.add([tokens[k]])
        else:
            alike.setdefault(chooser.filters, []).append(k)
    for members in alike.values():
        rows = torch.stack([logits[k] for k in members])
        first = choosers[members[0]]
        generators = [choosers[k].generator for k in members]
        found = choose(rows, first.history(rows), first.options, generators).tolist()
        for k, token in zip(members, found, strict=True):
            tokens[k] = token
    return tokens
