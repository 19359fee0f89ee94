"""Attention over the tiles that are seen: keys and values are gathered, products batched, nothing of the size
of the scores is kept.

For each tile of queries the tiles of keys that it sees are laid side by side; products, softmax over what is
seen, and products again are those of a small dense attention, for many tiles, heads and rows at once.
Backward gathers and computes the scores again (Rabe and Staats 2021, arXiv 2112.05682), so that memory
follows the tokens and time the density.

Legend: B rows, H heads, T tokens, E head width; P queries and K keys of a tile; G rows and heads, R tiles of
queries and J tiles of keys of what is worked on at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring.nn.sparse.tiles import Tiles

SCORES = 1 << 18
"""Scores worked on at once: they stay in the caches, or nearly."""


def gathered_attention(
    q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T * scale) v over what `tiles` says is seen; a query that sees nothing gives 0.

    Args:
        q: [B, H, T, E].
        k: [B, H, T, E].
        v: [B, H, T, E].
        tiles: for rows of this length, and these heads.
        scale: factor of the products (None: 1/sqrt(E)).
        dropout: probability of dropping a weight; drawn with torch's generator.

    Returns:
        [B, H, T, E].
    """
    seed = int(torch.randint(1 << 62, ())) if dropout else 0
    how = _How(tiles, scale or 1 / math.sqrt(q.shape[-1]), dropout, seed)
    mixed: Tensor = _Gathered.apply(q, k, v, how)  # type: ignore[no-untyped-call]
    return mixed


@dataclass(frozen=True)
class _How:
    tiles: Tiles
    scale: float
    dropout: float
    seed: int


class _Piece(NamedTuple):
    """What is worked on at once."""

    queries: Tensor
    """Tiles of queries, of all rows and heads, int64 [G R]."""
    keys: Tensor
    """Tiles of keys, int64 [G R J], as many of each tile of queries."""
    mask: Tensor | None
    """fp32 [R or 1, P, some of J K]."""
    blind: Tensor | None
    number: int


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, how: _How) -> Tensor:
        tiles = how.tiles
        with torch.autocast(q.device.type, enabled=False):
            queries = _cut(q * how.scale, tiles, tiles.queries)
            keys, values = (_cut(t, tiles, tiles.keys) for t in (k, v))
            out = torch.zeros_like(queries)
            for piece in _pieces(tiles, q.shape):
                weights = _weights(_take(queries, piece.queries), _gather(keys, piece), piece)
                kept = _kept(weights, how, piece)
                mixing = weights if kept is None else weights.mul_(kept)
                out.index_copy_(0, piece.queries, torch.bmm(mixing, _gather(values, piece)))
        ctx.save_for_backward(queries, keys, values)
        ctx.how, ctx.shape = how, q.shape
        return _joined(out, q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values = ctx.saved_tensors
        how: _How = ctx.how
        with torch.autocast(grad.device.type, enabled=False):
            pushed = _cut(grad, how.tiles, how.tiles.queries)
            by_q, by_k, by_v = (torch.zeros_like(t) for t in (queries, keys, values))
            for piece in _pieces(how.tiles, ctx.shape):
                some, push = _take(queries, piece.queries), _take(pushed, piece.queries)
                near = _gather(keys, piece)
                weights = _weights(some, near, piece)
                by_weights = torch.bmm(push, _gather(values, piece).transpose(1, 2))
                kept = _kept(weights, how, piece)
                mixing = weights
                if kept is not None:
                    by_weights.mul_(kept)
                    mixing = weights * kept
                _scatter(by_v, piece, torch.bmm(mixing.transpose(1, 2), push))
                by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
                by_q.index_copy_(0, piece.queries, torch.bmm(by_scores, near))
                _scatter(by_k, piece, torch.bmm(by_scores.transpose(1, 2), some))
        shape = ctx.shape
        return _joined(by_q.mul_(how.scale), shape), _joined(by_k, shape), _joined(by_v, shape), None


def _cut(x: Tensor, tiles: Tiles, size: int) -> Tensor:
    """[B, H, T, E] -> tiles of so many tokens [B H p, P, E] (or k, K), the last ones filled up with zeros."""
    more = -x.shape[2] % tiles.queries
    x = F.pad(x, (0, 0, 0, more)) if more else x
    return x.reshape(-1, size, x.shape[3])


def _joined(tiles: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_cut`."""
    whole = tiles.view(*shape[:2], -1, tiles.shape[2])
    return whole[:, :, : shape[2]]


def _pieces(tiles: Tiles, shape: torch.Size) -> Iterator[_Piece]:
    """Groups, cut so that the scores of a piece are few; in the same order every time."""
    rows, heads, length, _ = shape
    longer = length + -length % tiles.queries
    number = 0
    for group in tiles.groups:
        device = group.queries.device
        of_rows = torch.arange(rows, device=device) if group.rows is None else group.rows
        of_heads = torch.arange(heads, device=device) if group.heads is None else group.heads
        owners = (of_rows[:, None] * heads + of_heads).flatten()
        scores = tiles.queries * tiles.keys * group.keys.shape[1]
        many = max(1, SCORES // scores)
        for queries, keys, mask, blind in _runs(group.queries, group.keys, group.mask, group.blind, many):
            for some in torch.split(owners, max(1, many // len(queries))):
                yield _Piece(
                    (some[:, None] * (longer // tiles.queries) + queries).flatten(),
                    (some[:, None, None] * (longer // tiles.keys) + keys).flatten(),
                    mask,
                    blind,
                    number,
                )
                number += 1


def _runs(
    queries: Tensor, keys: Tensor, mask: Tensor | None, blind: Tensor | None, many: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    """`many` tiles of queries at a time, and what a group has for them."""
    for start in range(0, len(queries), many):
        here = slice(start, start + many)
        some, unseen = (t if t is None or t.shape[0] == 1 else t[here] for t in (mask, blind))
        yield queries[here], keys[here], some, unseen


def _take(tiles: Tensor, index: Tensor) -> Tensor:
    return tiles.index_select(0, index)


def _gather(tiles: Tensor, piece: _Piece) -> Tensor:
    """Tiles of keys or values side by side, [G R, J K, E]."""
    return tiles.index_select(0, piece.keys).view(piece.queries.numel(), -1, tiles.shape[2])


def _scatter(total: Tensor, piece: _Piece, parts: Tensor) -> None:
    """Add gradients [G R, J K, E] to the tiles that they are of."""
    total.index_add_(0, piece.keys, parts.view(piece.keys.numel(), *total.shape[1:]))


def _weights(q: Tensor, k: Tensor, piece: _Piece) -> Tensor:
    """softmax(q k^T) over what is seen, [G R, P, J K]."""
    scores = torch.bmm(q, k.transpose(1, 2))
    if piece.mask is not None:
        own = piece.mask.shape[2]
        repeated = scores.view(-1, _tiles_of(piece, scores), *scores.shape[1:])
        repeated[..., -own:].add_(piece.mask)
    weights = torch.softmax(scores, -1)
    if piece.blind is not None:
        weights.view(-1, _tiles_of(piece, scores), *scores.shape[1:]).masked_fill_(piece.blind, 0.0)
    return weights


def _tiles_of(piece: _Piece, scores: Tensor) -> int:
    """R, or 1 where all tiles of a piece have one mask."""
    return 1 if piece.mask is None else piece.mask.shape[0]


def _kept(weights: Tensor, how: _How, piece: _Piece) -> Tensor | None:
    """Dropout's factors, the same whenever they are asked for."""
    if not how.dropout:
        return None
    generator = torch.Generator(weights.device).manual_seed(how.seed + piece.number)
    kept = torch.empty_like(weights).bernoulli_(1 - how.dropout, generator=generator)
    return kept.div_(1 - how.dropout)
