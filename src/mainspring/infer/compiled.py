"""Compiled models: a step of decoding over a static key-value cache, and an encoder's forward.

An encoder is compiled once, for all numbers and lengths of rows; a step once for each number of rows and
slots, which are rounded up so that there are few: 1, 2, 4, ... rows, and 64, 128, ... slots. A row that has
ended keeps its place and is computed in vain until the batch is done; rows that are needed twice are copied
in the cache. Prompts are read by the plain module, which writes into the same cache.

Shapes: B rows, T tokens of a step (2 where a mask asks), V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.data.token_row import collate
from mainspring.errors import UsageError
from mainspring.infer.layout import Layout
from mainspring.infer.quantized import quantized_layers
from mainspring.nn.static_cache import StaticCache
from mainspring.nn.transformer import Transformer

SMALLEST = 64
"""Slots of a row at least."""

Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]], Tensor]


class StaticStep(nn.Module):
    """A step of decoding as a function of tensors: what is compiled."""

    def __init__(self, model: Transformer) -> None:
        """`model` has no encoder, and reads other tokens through attention alone."""
        super().__init__()
        self.model = model
        config = model.config
        self.types, self.langs = config.type_vocab > 1, config.languages > 0

    def forward(
        self, ids: Tensor, pos: Tensor, rank: Tensor, types: Tensor, langs: Tensor, tensors: list[Tensor]
    ) -> Tensor:
        """Tokens and their data [B, T], and the tensors of a cache, which are written -> logits [B, V] after
        the last token."""
        batch = TokenBatch(
            ids, pos, rank, type=types if self.types else None, lang=langs if self.langs else None
        )
        logits: Tensor = self.model(batch, cache=StaticCache(tensors)).logits
        return logits[:, -1]


def compile_step(model: Transformer) -> Step:
    """The step, compiled: on the CPU through C++, on CUDA through Triton and graphs.

    Raises:
        UsageError: the model has parts that read whole rows, or an encoder.
    """
    check_static(model)
    device = next(model.parameters()).device.type
    mode = "reduce-overhead" if device == "cuda" else "default"
    compiled: Step = torch.compile(StaticStep(model), dynamic=False, fullgraph=True, mode=mode)
    return compiled


class EncoderStep(nn.Module):
    """An encoder as a function of tensors: what is compiled."""

    def __init__(self, encoder: Transformer, *, causal: bool = False) -> None:
        """`causal`: each token sees those before it alone."""
        super().__init__()
        self.encoder, self.causal = encoder, causal
        self.segments = encoder.config.type_vocab > 1

    def forward(self, ids: Tensor, types: Tensor, valid: Tensor) -> Tensor:
        """Rows padded on the right, [B, T] -> what leaves the last layer, [B, T, D]."""
        pos = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        batch = TokenBatch(
            ids,
            pos,
            pos if self.causal else torch.zeros_like(ids),
            type=types if self.segments else None,
            valid=valid,
        )
        # The logits of a model with a head are of no use to anything, and the compiler leaves them out.
        hidden: Tensor = self.encoder(batch).hidden
        return hidden


def compile_encoder(encoder: Transformer, *, causal: bool = False) -> Callable[[TokenBatch], Tensor]:
    """An encoder's forward, compiled for any number and length of rows, as a `Reader` calls it.

    Raises:
        UsageError: the model has parts that cannot be compiled.
    """
    check_compilable(encoder)
    return over_tensors(torch.compile(EncoderStep(encoder, causal=causal), dynamic=True, fullgraph=True))


def over_tensors(step: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[TokenBatch], Tensor]:
    """A compiled encoder as a function of a batch."""

    def forward(batch: TokenBatch) -> Tensor:
        types = torch.zeros_like(batch.ids) if batch.type is None else batch.type
        valid = torch.ones_like(batch.ids, dtype=torch.bool) if batch.valid is None else batch.valid
        with torch.no_grad():
            return step(batch.ids, types, valid)

    return forward


def check_compilable(model: Transformer) -> None:
    """Raises UsageError for parts whose work depends on their data, which one graph cannot hold."""
    config = model.config
    parts = {
        "disentangled positions": config.disentangled is not None,
        "experts": config.experts is not None,
        "a convolution over tokens": config.conv is not None,
        "an encoder beside the decoder": model.encoder is not None,
        "matrices that lie on several ranks": model.peers.size > 1,
        "quantised layers": bool(quantized_layers(model)),
    }
    named = [part for part, has in parts.items() if has]
    if named:
        raise UsageError(f"a model with {' and '.join(named)} is not compiled; run it without")


def check_static(model: Transformer) -> None:
    """Raises UsageError for a model that a static cache cannot serve."""
    config = model.config
    check_compilable(model)
    if config.mask_decoder or config.head_context:
        raise UsageError(
            "compiled decoding is for models that read past tokens through attention alone; run this one "
            "without it"
        )


def rounded(count: int, least: int = 1) -> int:
    """The smallest of least, 2 least, 4 least, ... that is no smaller.

    >>> [rounded(n) for n in (1, 3, 8)], rounded(65, 64)
    ([1, 4, 8], 128)
    """
    size = least
    while size < count:
        size *= 2
    return size


class StaticRunner:
    """See `infer.runner.Runner`: a step is one call of a compiled function over a cache of fixed shape."""

    def __init__(
        self, model: Transformer, step: Step, vocabulary: int, layout: Layout, *, every: bool = False
    ) -> None:
        """`step`: what `compile_step` made; the rest as for `CachedRunner`."""
        check_static(model)
        self._model, self._step, self._vocabulary, self._layout = model, step, vocabulary, layout
        self._every = every
        self._like = next(model.parameters())
        self._tensors: list[Tensor] = []
        self._given = torch.empty(0, dtype=torch.int64)
        self._active: list[int] = []
        """Row of the cache of each present row."""

    @torch.no_grad()
    def prefill(self, rows: Sequence[Sequence[int]], room: int) -> list[Tensor]:
        """See `Runner.prefill`."""
        layout, device = self._layout, self._like.device
        read = [layout.row(row) for row in rows]
        count = rounded(len(rows))
        capacity = rounded(max(row.length for row in read) + room + (layout.mask is not None), SMALLEST)
        self._tensors = StaticCache.allocate(
            self._model.config, count, capacity, self._like.dtype, device, self._model.heads
        )
        self._given = torch.zeros(count, dtype=torch.int64, device=device)
        self._given[: len(rows)] = torch.tensor([layout.given(row) for row in rows])
        self._active = list(range(len(rows)))
        batch = collate(read, device=device)._replace(labels=None)
        lengths = torch.tensor([row.length for row in read])
        index = torch.arange(batch.ids.shape[1])
        wanted = index < lengths[:, None]
        if not self._every:
            wanted &= index >= lengths[:, None] - 1
        cache = StaticCache([tensor[: len(rows)] for tensor in self._tensors])
        logits = self._model(batch, cache=cache, select=wanted.to(device)).logits
        if layout.mask is not None:
            return list(self._read([[] for _ in rows])[:, None])
        return list(logits[:, : self._vocabulary].float().split(wanted.sum(1).tolist()))

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `Runner.step`."""
        return self._read([[token] for token in tokens])

    def _read(self, tokens: list[list[int]]) -> Tensor:
        layout, lengths = self._layout, self._tensors[0]
        asking = [] if layout.mask is None else [layout.mask]
        width = len(tokens[0]) + len(asking)
        ids = torch.zeros((lengths.numel(), width), dtype=torch.int64)
        ids[self._active] = torch.tensor([[*row, *asking] for row in tokens], dtype=torch.int64)
        ids = ids.to(lengths.device)
        # Rows that have ended stay where they are: their slots do not run out.
        place = lengths[:, None] + torch.arange(width, device=lengths.device)
        rank = place - self._given[:, None] + 1 if layout.whole else place
        types, langs = (torch.full_like(ids, sides[1]) for sides in (layout.types, layout.langs))
        before = lengths.clone()
        logits = self._step(ids, place, rank, types, langs, self._tensors)
        lengths.copy_(before)
        lengths[self._active] += width - len(asking)
        return logits[self._active, : self._vocabulary].float()

    @torch.no_grad()
    def select(self, rows: Sequence[int]) -> None:
        """See `Runner.select`."""
        chosen = [self._active[row] for row in rows]
        if len(set(chosen)) == len(chosen):
            self._active = chosen  # none is needed twice: they stay where they are
            return
        count = rounded(len(chosen))
        index = torch.tensor(chosen + [chosen[0]] * (count - len(chosen)), device=self._given.device)
        self._tensors = [tensor.index_select(0, index) for tensor in self._tensors]
        self._given = self._given[index]
        self._active = list(range(len(chosen)))
