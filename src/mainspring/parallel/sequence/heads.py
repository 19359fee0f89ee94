"""Attention over tokens of several ranks by heads: DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509).

Before attention an all-to-all gives each rank some heads of all tokens, after it another gives each token all
its heads again. Between the two every kernel and every mask is that of one process. A rank sends
4 (s - 1) / s of its activations a layer, whatever the length.

Legend: B rows, T tokens, t of them here, S keys, s ranks, H heads, h of them here, E head width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring import comm
from mainspring.data.batch import TokenBatch
from mainspring.nn.attention import Here, Look, Sight
from mainspring.nn.disentangled import DisentangledAttention, DistanceVectors, Relative
from mainspring.nn.positions import Angles
from mainspring.parallel.sequence.swap import swap, swap_back
from mainspring.parallel.sequence.tokens import concatenated, join_tokens
from mainspring.parallel.tensor.operators import Line


class ByHeads:
    """A `TokenSpread` in which each rank attends with some heads.

    Heads need not divide: the first ranks then have one more.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self._here = Here()

    def sight(self, look: Look, queries: TokenBatch, keys: TokenBatch | None = None) -> Sight:
        """Who sees whom of the whole rows, with the rotary angles of the tokens that are here."""
        whole = concatenated(join_tokens(queries, self.line))
        others = None if keys is None else concatenated(join_tokens(keys, self.line))
        sight = look(whole, others)
        if sight.angles is None:
            return sight
        share = queries.ids.shape[1]
        own = slice(self.line.index * share, (self.line.index + 1) * share)
        return replace(sight, angles=Angles(*(angle[:, own] for angle in sight.angles)))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None, dropout: float,
        factor: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """q [B, H, t, E], k and v [B, H, t or S / s, E] -> [B, H, t, E]."""
        sizes = self._sizes(q.shape[1])
        if q.shape[2] == k.shape[2]:
            q, k, v = self._to_heads(torch.cat([q, k, v], -1), 1, sizes).chunk(3, -1)
        else:
            q = self._to_heads(q, 1, sizes)
            k, v = self._to_heads(torch.cat([k, v], -1), 1, sizes).chunk(2, -1)
        if factor is not None:
            factor = self._to_heads(factor, 1, sizes)
        start, stop = self._own(sizes)
        heads = {
            name: given[:, start:stop] if given is not None and given.shape[1] > 1 else given
            for name, given in (("mask", sight.mask), ("bias", sight.bias), ("lead_mask", sight.lead_mask))
        }
        sparse = None if sight.sparse is None else sight.sparse.of_heads(start, stop)
        sight = replace(sight, sparse=sparse, **heads)  # type: ignore[arg-type]
        y = self._here.attend(q, k, v, sight, scale, dropout, factor)
        return swap_back(y, 1, 2, sizes, self.line)

    def by_distance(
        self, inner: DisentangledAttention, q: Tensor, k: Tensor, v: Tensor, vectors: DistanceVectors,
        relative: Relative,
    ) -> Tensor:  # fmt: skip
        """q, k, v [B, t, H, E] -> [B, t, H E]; the tables' rows are those of the heads here."""
        sizes = self._sizes(q.shape[2])
        q, k, v = self._to_heads(torch.cat([q, k, v], -1), 2, sizes).chunk(3, -1)
        start, stop = self._own(sizes)
        own = DistanceVectors(*(None if table is None else table[:, start:stop] for table in vectors))
        y = self._here.by_distance(inner, q, k, v, own, relative)
        whole = swap_back(y.view(*y.shape[:2], stop - start, -1), 2, 1, sizes, self.line)
        return whole.flatten(2)

    def first(self, hidden: Tensor) -> Tensor:
        """The first rank's first token of each row [B, 1, D], on all ranks."""
        return first_token(hidden, self.line)

    def _sizes(self, heads: int) -> list[int]:
        each, more = divmod(heads, self.line.size)
        return [each + (rank < more) for rank in range(self.line.size)]

    def _own(self, sizes: list[int]) -> tuple[int, int]:
        start = sum(sizes[: self.line.index])
        return start, start + sizes[self.line.index]

    def _to_heads(self, x: Tensor, dim: int, sizes: list[int]) -> Tensor:
        """Heads are dimension `dim`, tokens the other of 1 and 2."""
        return swap(x, dim, 3 - dim, sizes, self.line)


def first_token(hidden: Tensor, line: Line) -> Tensor:
    """The first rank's first token of each row, on all ranks: hidden [B, t, D] -> [B, 1, D]."""
    found: Tensor = _First.apply(hidden[:, :1], line)  # type: ignore[no-untyped-call]
    return found


class _First(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, line: Line) -> Tensor:
        ctx.line = line
        found = x.clone(memory_format=torch.contiguous_format)
        comm.broadcast(found, name="first tokens", group=line.group, counter=line.counter)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        line: Line = ctx.line
        total = grad.clone(memory_format=torch.contiguous_format)
        comm.all_reduce(total, name="first tokens", group=line.group, counter=line.counter)
        return (total if line.index == 0 else torch.zeros_like(total)), None
