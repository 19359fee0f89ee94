"""Disentangled attention: content and relative position as separate vectors (DeBERTa, arXiv 2006.03654).

    scores(i, j) = scale * (q_i . k_j + q_i . K[row(i, j)] + k_j . Q[row(i, j)]),   row = bucket(i - j) + span

K and Q are projections of one table of distances that all layers share. Both terms read row(i, j); the
paper writes row(j, i) in the third, but its code and every published model do this.

Legend: B rows, T tokens, H heads, E head width, D model width, R rows of the table that are referred to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.nn.config import Disentangled, TransformerConfig
from mainspring.nn.linear import Linear, linear
from mainspring.nn.lookup import Embedding
from mainspring.nn.peers import ALONE, Along, Peers
from mainspring.nn.relative_attention import relative_attention


@dataclass(frozen=True, slots=True)
class Relative:
    """Where the tokens of a forward stand to one another, worked out once for all layers."""

    table: Tensor
    """Vectors of the distances referred to, [R, D]."""
    rows: Tensor | None = None
    """Where positions differ as indices do: the row of each distance from 1 - T to T - 1, int64 [2T - 1]."""
    index: Tensor | None = None
    """Elsewhere: the row of each pair, int64 [B or 1, 1, Tq, Tk]."""
    blocked: Tensor | None = None
    """bool, True where a key may not be seen, broadcastable to [B, 1, Tq, Tk]."""
    sees: Tensor | None = None
    """bool [B or 1, 1, Tq or 1, 1], False for queries that see nothing (None: all see something)."""


class DistanceVectors(NamedTuple):
    """A layer's projections of the table, each [R, H, E]; None: without that term."""

    keys: Tensor | None
    queries: Tensor | None


def bucket(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Bucket of a signed distance: itself when near, logarithmic when far, odd in its argument.

    Source: the published DeBERTa-v2 code; |d| <= mid = buckets / 2 maps to d, farther ones to
    sign(d) * (mid + ceil(log(|d| / mid) / log((max_distance - 1) / mid) * (mid - 1))).

    Args:
        distance: int64, any shape.
        buckets: buckets of a side.
        max_distance: distance that all sides' buckets reach.

    Returns:
        int64, the shape of `distance`; beyond max_distance it may pass `buckets`, and callers clamp.
    """
    mid = buckets // 2
    away = distance.abs().clamp(min=max(mid - 1, 1))
    # In fp32 and in this order, as the published models were trained: ceil turns an ulp into a row.
    reach = torch.log(torch.tensor((max_distance - 1) / mid, device=distance.device))
    far = torch.ceil(torch.log(away / mid) / reach * (mid - 1)) + mid
    return torch.where(distance.abs() <= mid, distance, far.long() * distance.sign())


def table_row(distance: Tensor, config: Disentangled) -> Tensor:
    """Row of the table of a distance (query's position minus key's), int64 in [0, 2 span)."""
    if config.buckets is not None:
        distance = bucket(distance, config.buckets, config.max_distance)
    return (distance + config.span).clamp(0, 2 * config.span - 1)


def positions_aligned(batch: TokenBatch) -> bool:
    """Whether within each document positions differ as indices do (with one synchronisation); in a graph that
    is exported, which has no values to look at, they need not."""
    if torch.compiler.is_exporting():
        return False
    if batch.ids.is_meta or batch.ids.shape[1] < 2:
        return True
    step = batch.pos[:, 1:] - batch.pos[:, :-1] == 1
    if batch.doc is not None:
        turn = batch.doc[:, 1:] - batch.doc[:, :-1]
        step = torch.where(turn == 0, step, turn > 0)  # documents in order: each is one run
    return bool(step.all())


class DistanceTable(nn.Module):
    """A vector for each row of distances, with a norm where configured; all layers project it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        assert config.disentangled is not None
        self.scheme = config.disentangled
        self.table = Embedding(2 * self.scheme.span, config.d_model)
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps) if self.scheme.norm_table else None

    @property
    def cuts(self) -> Mapping[str, Along]:
        """None: it stays whole, for every head refers to all distances."""
        return {}

    def forward(self, pos_q: Tensor, pos_k: Tensor, aligned: bool, mask: Tensor | None) -> Relative:
        """Work out who stands where to whom.

        Args:
            pos_q: positions of the queries, int64 [B or 1, Tq].
            pos_k: positions of the keys, int64 [B or 1, Tk].
            aligned: within each document, positions differ as indices do, and queries are the keys.
            mask: bool, broadcastable to [B, 1, Tq, Tk], True where allowed (None: everywhere).
        """
        blocked = sees = None
        if mask is not None:
            blocked, sees = ~mask, mask.any(-1, keepdim=True)
            if sees.device.type == "cpu" and not torch.compiler.is_compiling() and bool(sees.all()):
                sees = None
        if not aligned:
            index = table_row(pos_q[:, None, :, None] - pos_k[:, None, None, :], self.scheme)
            return Relative(self._normed(self.table.weight), None, index, blocked, sees)
        last = pos_q.shape[1] - 1
        rows = table_row(torch.arange(-last, last + 1, device=pos_q.device), self.scheme)
        low, high = self._ends(last)
        return Relative(self._normed(self.table.weight[low : high + 1]), rows - low, None, blocked, sees)

    def _ends(self, last: int) -> tuple[int, int]:
        """Rows of the distances -last and last."""
        low, high = table_row(torch.tensor([-last, last], device="cpu"), self.scheme).tolist()
        return int(low), int(high)

    def _normed(self, table: Tensor) -> Tensor:
        (shared,) = self.peers.share(table if self.norm is None else self.norm(table))
        return shared


class DisentangledAttention(nn.Module):
    """Scores by content and distance; holds the projections of the table where the layer has its own."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        scheme = config.disentangled
        assert scheme is not None
        inner = config.n_heads * config.head_width
        self.heads, self.width = config.n_heads, config.head_width
        self.to_keys, self.to_queries = "c2p" in scheme.terms, "p2c" in scheme.terms
        own = not scheme.shared
        bias = scheme.key_bias
        self.key = Linear(config.d_model, inner, bias=bias) if own and self.to_keys else None
        self.query = Linear(config.d_model, inner) if own and self.to_queries else None
        self.scale = config.attention_scale or 1 / math.sqrt(config.head_width * (1 + len(scheme.terms)))
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By heads."""
        names = ("key.weight", "key.bias", "query.weight", "query.bias")
        return dict.fromkeys(names, Along(0, self.heads, "heads"))

    def project(self, table: Tensor, weight: Tensor, bias: Tensor | None) -> DistanceVectors:
        """Keys and queries of the distances.

        Args:
            table: [R, D].
            weight: the layer's fused projection, [H, (q, k, v), E] rows of D, used where it is shared.
            bias: its bias, in the same order.
        """
        if self.training and self.dropout:
            table = F.dropout(table, self.dropout)
        keys = queries = None
        if self.to_keys:
            if self.key is None:
                (keys,) = project_parts(table, weight, bias, self.width, slice(1, 2))
            else:
                keys = self.key(table).view(len(table), -1, self.width)
        if self.to_queries:
            if self.query is None:
                (queries,) = project_parts(table, weight, bias, self.width, slice(0, 1))
            else:
                queries = self.query(table).view(len(table), -1, self.width)
        return DistanceVectors(keys, queries)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, vectors: DistanceVectors, relative: Relative
    ) -> Tensor:
        """Attend. q [B, Tq, H, E], k and v [B, Tk, H, E] -> [B, Tq, H E]."""
        q = q * self.scale
        if vectors.queries is not None:
            vectors = vectors._replace(queries=vectors.queries * self.scale)
        by_head = (2, 0, 1, 3)  # heads first: a head's table serves all rows with one product
        q, k, v = (t.permute(by_head).contiguous() for t in (q, k, v))
        blocked = None if relative.blocked is None else relative.blocked.transpose(0, 1)
        kept = None
        if self.training and self.attention_dropout:
            kept = F.dropout(q.new_ones(*q.shape[:3], k.shape[2]), self.attention_dropout)
        if relative.rows is not None:
            rows = relative.rows
            falling = None if vectors.keys is None else _spread(vectors.keys, rows.flip(0))
            rising = None if vectors.queries is None else _spread(vectors.queries, rows)
            keep = torch.is_grad_enabled()
            mixed, _ = relative_attention(q, k, v, falling, rising, blocked, kept, keep)
        else:
            assert relative.index is not None
            scores = gathered_scores(q, k, vectors, relative.index)
            if blocked is not None:
                scores = scores.masked_fill(blocked, torch.finfo(scores.dtype).min)
            weights = scores.softmax(-1)
            mixed = (weights if kept is None else weights * kept) @ v
        mixed = mixed.permute(1, 2, 0, 3)  # [B, Tq, H, E]
        if relative.sees is not None:
            mixed = mixed * relative.sees.transpose(1, 2)
        flat: Tensor = mixed.reshape(*mixed.shape[:2], -1)
        return flat


def project_parts(
    x: Tensor, weight: Tensor, bias: Tensor | None, width: int, parts: slice
) -> tuple[Tensor, ...]:
    """Some of the queries (0), keys (1) and values (2) that a fused projection gives.

    Args:
        x: [..., D].
        weight: [H (q, k, v) E, D].
        bias: in the same order, or none.
        width: E.
        parts: which.

    Returns:
        Each [..., H, E].
    """
    heads = weight.shape[0] // (3 * width)
    chosen = weight.view(heads, 3, width, -1)[:, parts].reshape(-1, weight.shape[1])
    biases = None if bias is None else bias.view(heads, 3, width)[:, parts].reshape(-1)
    return linear(x, chosen, biases).view(*x.shape[:-1], heads, -1, width).unbind(-2)


def gathered_scores(q: Tensor, k: Tensor, vectors: DistanceVectors, index: Tensor) -> Tensor:
    """Scores of any pairs: products with all rows, then those of the pairs are picked. The plain form.

    Args:
        q: queries, times the scale, [H, B, Tq, E].
        k: keys, [H, B, Tk, E].
        vectors: the queries among them times the scale.
        index: row of each pair, int64 [B or 1, 1, Tq, Tk].

    Returns:
        [H, B, Tq, Tk].
    """
    heads, rows = q.shape[:2]
    pairs = index.transpose(0, 1).expand(heads, rows, -1, -1)
    scores = q @ k.transpose(-1, -2)
    if vectors.keys is not None:
        scores = scores + (q @ vectors.keys.permute(1, 2, 0)[:, None]).gather(-1, pairs)
    if vectors.queries is not None:
        by_key = (k @ vectors.queries.permute(1, 2, 0)[:, None]).gather(-1, pairs.transpose(-1, -2))
        scores = scores + by_key.transpose(-1, -2)
    return scores


def _spread(vectors: Tensor, rows: Tensor) -> Tensor:
    """Vectors [R, H, E] of the given rows, heads first: [H, 2T - 1, E]."""
    return vectors.index_select(0, rows).transpose(0, 1).contiguous()
