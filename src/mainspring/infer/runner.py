"""Runner: a model as "the logits of the next token" for a changing set of rows.

Prompts of different length are right-padded once; from there every row continues at its own position, so a
row's logits are those it would have alone. Two runners with one contract: with a key-value cache, and without
(the reference that the cached one is tested against). How prompts stand in rows is the layout's business;
where a mask asks for the next token, the cache forgets it once it has been answered.

Shapes: B rows, T tokens of the longest row, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.data.token_row import TokenRow, collate
from mainspring.infer.layout import Layout
from mainspring.infer.quantized.native import DecodeStep
from mainspring.nn.cache import KVCache
from mainspring.nn.transformer import Transformer

CONTINUING = Layout()
"""Text that is continued."""


def takes_cache(model: Transformer) -> bool:
    """Whether a model reads past tokens through attention alone; one that does not has to read whole rows."""
    return model.conv is None and not (model.config.mask_decoder or model.config.head_context)


class Runner(Protocol):
    """Rows of tokens and the logits of what follows each."""

    def prefill(self, rows: Sequence[Sequence[int]], room: int) -> list[Tensor]:
        """Begin with these prompts (each of one token or more), to be continued by `room` tokens at most.

        Returns: for each row the logits of what follows, fp32 [1, V]; where logits at every token were asked
        for, [length, V]; row k of it is about the token after token k.
        """
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row -> logits of the next, fp32 [B, V]."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these of the present rows, in this order; a row may be repeated or left out."""
        ...


class CachedRunner:
    """Keeps the keys and values of past tokens: a step costs one token a row, or two with a mask."""

    def __init__(
        self, model: Transformer, vocabulary: int, layout: Layout = CONTINUING, *, every: bool = False
    ) -> None:
        """`vocabulary`: entries of the model's table that are tokens (the rest is padding, never chosen).

        `every`: prefill gives logits at every token; else only at the last one of each row.
        """
        self._model, self._vocabulary, self._layout, self._every = model, vocabulary, layout, every
        self._parameter = next(model.parameters())
        self._at_once = None if layout.mask is not None else DecodeStep.of(model)
        self._cache: KVCache | None = None
        self._lengths = self._given = torch.empty(0, dtype=torch.int64)

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Sequence[int]], room: int) -> list[Tensor]:
        """See `Runner.prefill`."""
        layout, device = self._layout, self._parameter.device
        read = [layout.row(row) for row in rows]
        self._lengths = torch.tensor([row.length for row in read], device=device)
        self._given = torch.tensor([layout.given(row) for row in rows], device=device)
        self._cache = KVCache(
            self._model.config,
            rows=len(rows),
            capacity=max(row.length for row in read) + room,
            dtype=self._parameter.dtype,
            device=device,
            heads=self._model.heads,
        )
        sources = [layout.source(row) for row in rows] if layout.encoder else None
        asked = 0 if layout.mask is not None else None if self._every else 1
        logits = _logits(self._model, read, sources, self._cache, asked, self._vocabulary)
        if layout.mask is None:
            return logits
        return list(self._read([[]] * len(rows))[:, None])

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `Runner.step`."""
        if self._at_once is not None:
            return self._step_at_once(self._at_once, tokens)
        return self._read([[token] for token in tokens])

    def _read(self, tokens: list[list[int]]) -> Tensor:
        """Read tokens of each row, and the mask where one asks, which is forgotten: fp32 [B, V]."""
        assert self._cache is not None, "prefill comes first"
        device = self._lengths.device
        asking = [] if self._layout.mask is None else [self._layout.mask]
        ids = torch.tensor([[*row, *asking] for row in tokens], dtype=torch.int64, device=device)
        select = None
        if ids.shape[1] > 1:
            select = torch.zeros_like(ids, dtype=torch.bool)
            select[:, -1] = True
        logits: Tensor = self._model(self._batch(ids), cache=self._cache, select=select).logits
        self._cache.truncate(self._cache.length - len(asking))
        self._lengths = self._lengths + (ids.shape[1] - len(asking))
        return logits.view(len(tokens), -1)[:, : self._vocabulary].float()

    def _batch(self, ids: Tensor) -> TokenBatch:
        """Generated tokens [B, T] with their data; each row's follow its own last one."""
        layout = self._layout
        place = self._lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        type, lang = (
            torch.full_like(ids, sides[1]) if sides[1] else None for sides in (layout.types, layout.langs)
        )
        rank = place - self._given[:, None] + 1 if layout.whole else place
        return TokenBatch(ids, pos=place, rank=rank, type=type, lang=lang)

    def _step_at_once(self, step: DecodeStep, tokens: Sequence[int]) -> Tensor:
        """Read a token of each row in one call; what padded the prompts is written over."""
        assert self._cache is not None, "prefill comes first"
        ids = torch.tensor(tokens, dtype=torch.int64)[:, None]
        x = self._model.embeddings(self._batch(ids))[:, 0]
        layers = self._cache.layers
        slots = torch.arange(len(ids))
        logits = step(x, [s.keys for s in layers], [s.values for s in layers], slots, self._lengths)
        self._lengths = self._lengths + 1
        for stored in layers:
            stored.length = int(self._lengths.max())
        return logits[:, : self._vocabulary]

    def select(self, rows: Sequence[int]) -> None:
        """See `Runner.select`."""
        assert self._cache is not None, "prefill comes first"
        if list(rows) == list(range(self._cache.rows)):
            return
        index = torch.tensor(rows, dtype=torch.int64, device=self._lengths.device)
        self._cache.select(index)
        self._lengths, self._given = self._lengths[index], self._given[index]


class PlainRunner:
    """Computes every row again for each token: slow, and as simple as can be."""

    def __init__(
        self, model: Transformer, vocabulary: int, layout: Layout = CONTINUING, *, every: bool = False
    ) -> None:
        """As for `CachedRunner`."""
        self._model, self._vocabulary, self._layout, self._every = model, vocabulary, layout, every
        self._rows: list[tuple[Sequence[int], list[int]]] = []

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Sequence[int]], room: int) -> list[Tensor]:
        """See `Runner.prefill`."""
        self._rows = [(row, []) for row in rows]
        return self._again(None if self._every else 1)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `Runner.step`."""
        for (_, generated), token in zip(self._rows, tokens, strict=True):
            generated.append(token)
        return torch.cat(self._again(1))

    def select(self, rows: Sequence[int]) -> None:
        """See `Runner.select`."""
        self._rows = [(self._rows[row][0], list(self._rows[row][1])) for row in rows]

    def _again(self, asked: int | None) -> list[Tensor]:
        layout = self._layout
        read = [layout.row(prompt, generated, asks=True) for prompt, generated in self._rows]
        sources = [layout.source(prompt) for prompt, _ in self._rows] if layout.encoder else None
        return _logits(self._model, read, sources, None, asked, self._vocabulary)


def _logits(
    model: Transformer,
    rows: Sequence[TokenRow],
    sources: Sequence[TokenRow] | None,
    cache: KVCache | None,
    asked: int | None,
    vocabulary: int,
) -> list[Tensor]:
    """Run right-padded rows; for each its logits at the last `asked` tokens (None: at all), fp32."""
    device = next(model.parameters()).device
    lengths = torch.tensor([row.length for row in rows])
    index = torch.arange(int(lengths.max()))
    wanted = index < lengths[:, None]
    if asked is not None:
        wanted &= index >= lengths[:, None] - asked
    batch = collate(rows, device=device)._replace(labels=None)
    source = None if sources is None else collate(sources, device=device)._replace(labels=None)
    logits = model(batch, source=source, cache=cache, select=wanted.to(device)).logits
    return list(logits[:, :vocabulary].float().split(wanted.sum(1).tolist()))
