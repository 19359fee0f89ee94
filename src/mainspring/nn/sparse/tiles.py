"""From a layout and the tokens' data to the tiles of scores that have to be computed.

A tile is some consecutive queries of a row with some consecutive keys. The rule is, for every two tokens,
`allow(i, j) and layout[pos_i // block, pos_j // block]`: positions are data, so that packed documents and
appended tokens have the blocks they would have alone. Bounds of each tile's data tell in which tiles nothing
is seen, which are seen whole, and which need the rule written out. Tiles need not coincide with blocks.

Legend: B rows, T tokens, H heads, N blocks, P queries of a tile, K keys of a tile, p tiles of queries and k
tiles of keys in a row; D different layouts; R tiles of queries and J tiles of keys of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch, lengthened
from mainspring.nn.masks import Facts, allow

QUERIES = 64
"""Queries of a tile: fewer see fewer keys in vain, more share the keys that they fetch."""
FEWEST_KEYS = 16
"""Keys of a tile at least."""


@dataclass(frozen=True, slots=True)
class Group:
    """Tiles of queries that see equally many tiles of keys, of which equally many in part."""

    rows: Tensor | None
    """Rows of the batch that this holds for, int64 (None: all)."""
    heads: Tensor | None
    """Heads, int64 (None: all)."""
    queries: Tensor
    """Which tiles of queries, int64 [R]."""
    keys: Tensor
    """Which tiles of keys each of them sees, int64 [R, J]; those that it sees in part come last."""
    mask: Tensor | None
    """For the latter: 0 where a token is seen and else minus infinity, fp32 [R or 1, P, some of J K]."""
    blind: Tensor | None
    """True at queries that see nothing, bool [R or 1, P, 1]; None where there are none."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """What has to be computed of the scores of a row."""

    length: int
    """T."""
    queries: int
    """P."""
    keys: int
    """K; P and K divide the length that rows are filled up to."""
    groups: tuple[Group, ...]
    computed: float
    """Scores that are computed, as a share of T * T, on average over rows and heads."""

    def of_heads(self, start: int, stop: int) -> Tiles:
        """For some of the heads, counted from the first of them."""
        groups = []
        for group in self.groups:
            if group.heads is None:
                groups.append(group)
                continue
            own = group.heads[(group.heads >= start) & (group.heads < stop)] - start
            if own.numel():
                groups.append(replace(group, heads=own))
        return replace(self, groups=tuple(groups))


class Status(NamedTuple):
    """Of every tile of scores."""

    whole: Tensor
    """All of it is seen, bool [B or 1, D, p, k]."""
    part: Tensor
    """Some of it may be seen, not all, bool [B or 1, D, p, k]."""


def tile_sizes(block: int) -> tuple[int, int]:
    """Queries and keys of a tile for a layout's block size.

    >>> tile_sizes(16), tile_sizes(128)
    ((64, 16), (64, 64))
    """
    return QUERIES, max(FEWEST_KEYS, math.gcd(block, QUERIES))


def plan_tiles(
    batch: TokenBatch, layout: Tensor, block: int, facts: Facts, sizes: tuple[int, int] | None = None
) -> Tiles:
    """Work out what has to be computed.

    Args:
        batch: B rows of T tokens; no position is beyond the layout.
        layout: bool [H or 1, N, N].
        block: positions of a block.
        facts: `inspect(batch)`.
        sizes: P and K, which divides P (None: `tile_sizes`).
    """
    length = batch.ids.shape[1]
    size, key_size = sizes or tile_sizes(block)
    if _same_for_all_rows(facts):
        batch = TokenBatch._make(None if t is None else t[:1] for t in batch)
    batch = lengthened(batch, -length % size)
    patterns = layout
    of_head: Tensor | None = None
    if layout.shape[0] > 1:
        patterns, of_head = torch.unique(layout, dim=0, return_inverse=True)
    blocks = batch.pos // block
    status, written_out = tile_status(batch, patterns, blocks, size, key_size)
    rows, kinds = status.whole.shape[:2]
    groups: list[Group] = []
    computed = 0.0
    for row in range(rows):
        data = TokenBatch._make(None if t is None else t[row] for t in batch)
        for kind in range(kinds):
            heads, share = None, 1 / rows
            if of_head is not None:
                heads = (of_head == kind).nonzero()[:, 0]
                share *= heads.numel() / of_head.numel()
            rule = patterns[kind] if written_out else None
            for queries, keys, parts in _alike(status.whole[row, kind], status.part[row, kind]):
                mask, blind = _mask(data, blocks[row], rule, queries, keys, parts, size, key_size)
                own = None if rows == 1 else torch.tensor([row], device=queries.device)
                groups.append(Group(own, heads, queries, keys, mask, blind))
                computed += keys.numel() * size * key_size * share
    return Tiles(length, size, key_size, tuple(groups), computed / length**2)


def tile_status(
    batch: TokenBatch, layouts: Tensor, blocks: Tensor, size: int, key_size: int
) -> tuple[Status, bool]:
    """Which tiles are seen, and whether single tokens of those seen in part have to be looked up.

    Args:
        batch: B rows, of a multiple of `size` tokens.
        layouts: bool [D, N, N].
        blocks: the block of each token, int64 [B, T].
        size: P.
        key_size: K.
    """
    q, k = _Bounds.of(batch, size), _Bounds.of(batch, key_size)
    ends, begins = q.below_most[:, :, None], q.below_least[:, :, None]
    some = k.rank_least[:, None] <= ends
    every = (k.rank_most[:, None] <= begins) & k.plain[:, None]
    if batch.probe is not None:
        meet = (k.probe_least[:, None] <= q.probe_most[:, :, None]) & (
            k.probe_most[:, None] >= q.probe_least[:, :, None]
        )
        some = some | meet
    if batch.doc is not None:
        some = some & (k.doc_least[:, None] <= q.doc_most[:, :, None])
        some = some & (k.doc_most[:, None] >= q.doc_least[:, :, None])
        one = (q.doc_least == q.doc_most)[:, :, None] & (k.doc_least == k.doc_most)[:, None]
        every = every & one & (q.doc_least[:, :, None] == k.doc_least[:, None])
    of_queries, of_keys = _tiled(blocks, size), _tiled(blocks, key_size)
    if _single(of_queries) and _single(of_keys):
        touched = layouts[:, of_queries[:, :, :1], of_keys[:, None, :, 0]].transpose(0, 1)
        clear, written_out = touched, False
    else:
        count, within = layouts.shape[-1], torch.float32
        left, right = (
            torch.zeros(*tiles.shape[:2], count, dtype=within, device=tiles.device).scatter_(2, tiles, 1.0)
            for tiles in (of_queries, of_keys)
        )
        pairs = left[:, None] @ layouts.to(within) @ right[:, None].transpose(2, 3)
        touched, written_out = pairs > 0, True
        clear = pairs == left.sum(2)[:, None, :, None] * right.sum(2)[:, None, None]
    whole = every[:, None] & clear
    return Status(whole, some[:, None] & touched & ~whole), written_out


class _Bounds(NamedTuple):
    """Least and most of each tile's data, all [B, tiles]."""

    rank_least: Tensor
    """Of keys that ordinary queries may see."""
    rank_most: Tensor
    below_least: Tensor
    """The highest rank that a query sees, of the one that sees least."""
    below_most: Tensor
    plain: Tensor
    """All keys are valid and none is a probe."""
    doc_least: Tensor
    doc_most: Tensor
    probe_least: Tensor
    """Rank of probes."""
    probe_most: Tensor

    @classmethod
    def of(cls, batch: TokenBatch, size: int) -> _Bounds:
        def cut(t: Tensor) -> Tensor:
            return _tiled(t, size)

        rank = batch.rank
        limits = torch.iinfo(rank.dtype)
        hidden = torch.zeros_like(rank, dtype=torch.bool) if batch.valid is None else ~batch.valid
        below, probes = rank, torch.zeros_like(hidden)
        if batch.probe is not None:
            probes = batch.probe & ~hidden
            below = rank - batch.probe.to(rank.dtype)
            hidden = hidden | batch.probe
        doc = torch.zeros_like(rank) if batch.doc is None else batch.doc
        return cls(
            rank_least=cut(rank.masked_fill(hidden, limits.max)).amin(2),
            rank_most=cut(rank).amax(2),
            below_least=cut(below).amin(2),
            below_most=cut(below).amax(2),
            plain=~cut(hidden).any(2),
            doc_least=cut(doc).amin(2),
            doc_most=cut(doc).amax(2),
            probe_least=cut(rank.masked_fill(~probes, limits.max)).amin(2),
            probe_most=cut(rank.masked_fill(~probes, limits.min)).amax(2),
        )


def _tiled(x: Tensor, size: int) -> Tensor:
    """[B, T] -> [B, tiles, size]."""
    return x.reshape(x.shape[0], -1, size)


def _same_for_all_rows(facts: Facts) -> bool:
    return facts.shared_positions and (facts.causal or (facts.uniform and facts.all_valid))


def _single(tiles: Tensor) -> bool:
    """Whether every tile [B, tiles, size] lies in one block."""
    return bool((tiles == tiles[:, :, :1]).all())


def _alike(whole: Tensor, part: Tensor) -> list[tuple[Tensor, Tensor, int]]:
    """Tiles of queries with equally many tiles of keys: they, the keys (in part: last), how many in part.

    Args:
        whole, part: bool [p, k].
    """
    counts = torch.stack([whole.sum(1), part.sum(1)], 1)
    found = []
    kinds: Tensor = torch.unique(counts, dim=0)
    for wholes, parts in kinds.tolist():
        if not wholes + parts:
            continue
        queries = ((counts[:, 0] == wholes) & (counts[:, 1] == parts)).nonzero()[:, 0]
        keys = [
            seen[queries].nonzero()[:, 1].view(-1, count)
            for seen, count in ((whole, wholes), (part, parts))
            if count
        ]
        found.append((queries, torch.cat(keys, 1), parts))
    return found


def _mask(
    data: TokenBatch,
    blocks: Tensor,
    layout: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    parts: int,
    size: int,
    key_size: int,
) -> tuple[Tensor | None, Tensor | None]:
    """The rule in the last `parts` tiles of keys, and which queries see nothing at all (`Group`).

    Args:
        data: a row, [T].
        blocks: of its tokens, [T].
        layout: bool [N, N]; None where it forbids none of these pairs.
    """
    if not parts:
        return None, None

    def taken(tiles: Tensor, width: int) -> TokenBatch:
        needed = data._replace(type=None, lang=None, labels=None)
        return TokenBatch._make(None if t is None else t.view(-1, width)[tiles].flatten(1) for t in needed)

    q, k = taken(queries[:, None], size), taken(keys[:, -parts:], key_size)
    seen = allow(q, k)[:, 0]
    if layout is not None:
        there = blocks.view(-1, key_size)[keys[:, -parts:]].flatten(1)
        seen = seen & layout[blocks.view(-1, size)[queries][:, :, None], there[:, None]]
    if seen.shape[0] > 1 and bool((seen == seen[:1]).all()):
        seen = seen[:1]
    mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -math.inf)
    if parts < keys.shape[1]:
        return mask, None
    blind = ~seen.any(2, keepdim=True)
    return mask, blind if bool(blind.any()) else None
