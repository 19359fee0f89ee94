"""Runner: a model as "the logits of the next token" for a changing set of rows.

Prompts of different length are right-padded once; from there every row continues at its own position, so a
row's logits are those it would have alone. Two runners with one contract: with a key-value cache, and without
(the reference that the cached one is tested against).

Shapes: B rows, T tokens of the longest row, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch, causal_batch, pad_rows
from mainspring.nn.cache import KVCache
from mainspring.nn.transformer import Transformer


class Runner(Protocol):
    """Rows of tokens and the logits of what follows each."""

    def prefill(self, rows: Sequence[Sequence[int]], room: int) -> list[Tensor]:
        """Begin with these rows (each of one token or more), to be continued by `room` tokens at most.

        Returns: for each row its logits, fp32 [length, V]; row k of it is about the token after token k.
        """
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row -> logits of the next, fp32 [B, V]."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these of the present rows, in this order; a row may be repeated or left out."""
        ...


class CachedRunner:
    """Keeps the keys and values of past tokens: a step costs one token a row."""

    def __init__(self, model: Transformer, vocabulary: int, *, every: bool = False) -> None:
        """`vocabulary`: entries of the model's table that are tokens (the rest is padding, never chosen).

        `every`: prefill gives logits at every token; else only at the last one of each row.
        """
        self._model, self._vocabulary, self._every = model, vocabulary, every
        self._parameter = next(model.parameters())
        self._cache: KVCache | None = None
        self._lengths = torch.empty(0, dtype=torch.int64)

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Sequence[int]], room: int) -> list[Tensor]:
        """See `Runner.prefill`."""
        lengths = torch.tensor([len(row) for row in rows])
        device = self._parameter.device
        width = int(lengths.max())
        self._lengths = lengths.to(device)
        self._cache = KVCache(
            self._model.config,
            rows=len(rows),
            capacity=width + room,
            dtype=self._parameter.dtype,
            device=device,
        )
        return _prompt_logits(self._model, rows, self._cache, self._every, self._vocabulary)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `Runner.step`."""
        assert self._cache is not None, "prefill comes first"
        ids = torch.tensor(tokens, dtype=torch.int64, device=self._lengths.device)[:, None]
        place = self._lengths[:, None].clone()
        logits: Tensor = self._model(TokenBatch(ids, pos=place, rank=place), cache=self._cache).logits
        self._lengths = self._lengths + 1
        return logits[:, -1, : self._vocabulary].float()

    def select(self, rows: Sequence[int]) -> None:
        """See `Runner.select`."""
        assert self._cache is not None, "prefill comes first"
        if list(rows) == list(range(self._cache.rows)):
            return
        index = torch.tensor(rows, dtype=torch.int64, device=self._lengths.device)
        self._cache.select(index)
        self._lengths = self._lengths[index]


class PlainRunner:
    """Computes every row again for each token: slow, and as simple as can be."""

    def __init__(self, model: Transformer, vocabulary: int, *, every: bool = False) -> None:
        """As for `CachedRunner`."""
        self._model, self._vocabulary, self._every = model, vocabulary, every
        self._rows: list[list[int]] = []

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Sequence[int]], room: int) -> list[Tensor]:
        """See `Runner.prefill`."""
        self._rows = [list(row) for row in rows]
        return _prompt_logits(self._model, rows, None, self._every, self._vocabulary)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `Runner.step`."""
        for row, token in zip(self._rows, tokens, strict=True):
            row.append(token)
        return torch.cat(_prompt_logits(self._model, self._rows, None, False, self._vocabulary))

    def select(self, rows: Sequence[int]) -> None:
        """See `Runner.select`."""
        self._rows = [list(self._rows[row]) for row in rows]


def _prompt_logits(
    model: Transformer, rows: Sequence[Sequence[int]], cache: KVCache | None, every: bool, vocabulary: int
) -> list[Tensor]:
    """Run right-padded rows; fp32 [1, V] (last token) or [length, V] for each row."""
    ids, valid = pad_rows(rows, pad=0)
    wanted = valid.clone()
    if not every:
        index = torch.arange(ids.shape[1])
        wanted &= index == valid.sum(1, keepdim=True) - 1
    device = next(model.parameters()).device
    batch = causal_batch(ids, valid=None if bool(valid.all()) else valid).to(device)
    logits = model(batch, cache=cache, select=wanted.to(device)).logits[:, :vocabulary].float()
    return list(logits.split(wanted.sum(1).tolist()))
