"""Attention: self-attention with fused projections, and attention to an encoder's output.

Legend: B rows, T tokens, S source tokens, H heads, E head width, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.nn import biased_attention
from mainspring.nn.blocked_attention import blocked_attention, suits
from mainspring.nn.cache import Store
from mainspring.nn.config import TransformerConfig
from mainspring.nn.disentangled import DisentangledAttention, DistanceVectors, Relative, project_parts
from mainspring.nn.gate import PositionGate, gated_scores
from mainspring.nn.linear import Closing, Linear
from mainspring.nn.peers import ALONE, Along, Peers
from mainspring.nn.positions import Angles, rotate
from mainspring.nn.sparse.sight import SparseSight


@dataclass(frozen=True, slots=True)
class Sight:
    """Who sees whom, worked out once a forward and used by every layer of a stack.

    Not a pytree, so that mixed-precision wrappers that cast a block's inputs leave angles in fp32.
    """

    mask: Tensor | None = None
    """bool (True: allowed) or float (added to the scores), broadcastable to [B, H, Tq, Tk]."""
    is_causal: bool = False
    angles: Angles | None = None
    bias: Tensor | None = None
    """Scores that each layer gates before it adds them, [B or 1, H, Tq, Tk]; `mask` is then bool or None."""
    relative: Relative | None = None
    """Distances of the tokens, for disentangled attention; it holds the mask then."""
    lead: int = 0
    """So many tokens at the beginning see one another alone, by `lead_mask`; `mask` is then the others'."""
    lead_mask: Tensor | None = None
    """bool or float, broadcastable to [B, H, lead, lead]."""
    parts: tuple[Sight | None, ...] = ()
    """Where keys lie on several ranks: what of each rank's keys is seen (None: nothing); no mask is here."""
    sparse: SparseSight | None = None
    """Which tiles of keys tiles of queries see, of sparse attention; it holds the mask then."""
    reach: Tensor | None = None
    """Of a part: for each query (or for all) the first key that it sees and the first after the last one,
    int64 [2, Tq or 1] on the CPU; None: all keys."""


Look = Callable[[TokenBatch, TokenBatch | None], Sight]
"""Who sees whom of queries and keys (None: the queries themselves)."""


class TokenSpread(Protocol):
    """How tokens attend to one another wherever they lie; sequence parallelism sets another than `Here`."""

    def sight(self, look: Look, queries: TokenBatch, keys: TokenBatch | None = None) -> Sight:
        """Who sees whom, from the data of the tokens that are here."""
        ...

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None, dropout: float,
        factor: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """What `attend` gives for the queries here, q [B, H, T, E]; `factor` [B, H, T] is a gate's."""
        ...

    def by_distance(
        self, inner: DisentangledAttention, q: Tensor, k: Tensor, v: Tensor, vectors: DistanceVectors,
        relative: Relative,
    ) -> Tensor:  # fmt: skip
        """What disentangled attention gives for the queries that are here, [B, T, H E]."""
        ...

    def first(self, hidden: Tensor) -> Tensor:
        """The first token of each row, [B, 1, D], of hidden [B, T, D]."""
        ...


class Here:
    """All tokens of a row are in this process."""

    def sight(self, look: Look, queries: TokenBatch, keys: TokenBatch | None = None) -> Sight:
        """What `look` says."""
        return look(queries, keys)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None, dropout: float,
        factor: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attend."""
        return attend(q, k, v, gated_sight(sight, factor), scale, dropout)

    def by_distance(
        self, inner: DisentangledAttention, q: Tensor, k: Tensor, v: Tensor, vectors: DistanceVectors,
        relative: Relative,
    ) -> Tensor:  # fmt: skip
        """Attend by content and distance."""
        mixed: Tensor = inner(q, k, v, vectors, relative)
        return mixed

    def first(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, D] -> [B, 1, D]."""
        return hidden[:, :1]


def gated_sight(sight: Sight, factor: Tensor | None) -> Sight:
    """The sight with position scores times a gate's factor [B, H, T] in its mask (None: as it is)."""
    if factor is None or sight.bias is None:
        return sight
    return Sight(gated_scores(factor, sight.bias, sight.mask))


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to tokens of the same stack (Vaswani et al. 2017, 3.2).

    One projection makes queries, keys and values; its rows are ordered [head, (q, k, v), E], so that a
    slice of whole heads is a slice of rows.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.heads = config.n_heads
        inner = config.n_heads * config.head_width
        self.head_dim, self.scale, self.dropout = (
            config.head_width,
            config.attention_scale,
            config.attention_dropout,
        )
        self.qkv = Linear(config.d_model, 3 * inner, bias=config.bias and config.key_bias)
        """Where keys have no bias, those of queries and values: rows [head, (q, v), E]."""
        partial = config.bias and not config.key_bias
        self.qv_bias = nn.Parameter(torch.zeros(2 * inner)) if partial else None
        self.out = Closing(inner, config.d_model, bias=config.bias)
        self.disentangled = DisentangledAttention(config) if config.disentangled is not None else None
        gated = config.t5_bias is not None and config.t5_bias.gate is not None
        self.gate = PositionGate(config) if gated else None
        self.spread: TokenSpread = Here()

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By heads."""
        across, along = Along(0, self.heads, "heads"), Along(1, self.heads, "heads")
        names = ("qkv.weight", "qkv.bias", "qv_bias")
        return {**dict.fromkeys(names, across), "out.weight": along}

    def forward(
        self,
        x: Tensor,
        sight: Sight,
        store: Store | None = None,
        context: Tensor | None = None,
        fused: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D].

        With `store`, also attends to what it holds, and adds to it; with `context` [B, S, D], attends to that
        in place of x. What `project` gives goes into the list `fused`.
        """
        x = self.peers.enter(x)
        context = None if context is None else self.peers.enter(context)
        batch, length, _ = x.shape
        if context is None:
            projected = self.project(x)
            if fused is not None:
                fused.append(projected)
            q, k, v = projections(projected, self.head_dim)
        else:
            q, k, v = self._project_apart(x, context)
        if self.disentangled is not None:
            return self._by_distance(q, k, v, sight, store)
        if sight.angles is not None:
            q, k = rotate(q, sight.angles), rotate(k, sight.angles)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if store is not None:
            k, v = store.append(k, v)
        factor = None if self.gate is None else self.gate(x, q)
        dropout = self.dropout if self.training else 0.0
        with self.peers.apart(dropout):
            y = self.spread.attend(q, k, v, sight, self.scale, dropout, factor)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return out

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values before rotation, in one tensor [B, T, H (q, k, v) E]."""
        fused: Tensor = self.qkv(x) if self.qv_bias is None else self.qkv.product(x, self._bias())
        return fused

    def _project_apart(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x, keys and values of the context."""
        weight, bias = self.qkv.seen_weight(), self._bias()
        x, context = self.qkv.seen_input(x), self.qkv.seen_input(context)
        (q,) = project_parts(x, weight, bias, self.head_dim, slice(0, 1))
        k, v = project_parts(context, weight, bias, self.head_dim, slice(1, 3))
        return q, k, v

    def _bias(self) -> Tensor | None:
        """Bias of the fused projection, with zeros for the keys where they have none."""
        if self.qv_bias is None:
            return self.qkv.bias
        q, v = self.qv_bias.view(-1, 2, self.head_dim).unbind(1)
        return torch.stack([q, torch.zeros_like(q), v], dim=1).view(-1)

    def _by_distance(self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, store: Store | None) -> Tensor:
        assert self.disentangled is not None and sight.relative is not None
        if store is not None:
            k, v = (t.transpose(1, 2) for t in store.append(k.transpose(1, 2), v.transpose(1, 2)))
        vectors = self.disentangled.project(sight.relative.table, self.qkv.seen_weight(), self._bias())
        with self.peers.apart(self.dropout if self.training else 0.0):
            mixed = self.spread.by_distance(self.disentangled, q, k, v, vectors, sight.relative)
        out: Tensor = self.out(mixed)
        return out


def projections(fused: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values out of what a layer's projection gives.

    Args:
        fused: [B, T, H (q, k, v) E].
        width: E.

    Returns:
        Views [B, T, H, E].
    """
    q, k, v = fused.view(*fused.shape[:2], -1, 3, width).unbind(3)
    return q, k, v


class CrossAttention(nn.Module):
    """Multi-head attention of a decoder to an encoder's output; rows of `kv` go [head, (k, v), E]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.heads = config.n_heads
        inner = config.n_heads * config.head_width
        self.head_dim, self.scale, self.dropout = (
            config.head_width,
            config.attention_scale,
            config.attention_dropout,
        )
        self.q = Linear(config.d_model, inner, bias=config.bias)
        self.kv = Linear(config.d_model, 2 * inner, bias=config.bias)
        self.out = Closing(inner, config.d_model, bias=config.bias)
        self.spread: TokenSpread = Here()

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By heads."""
        across, along = Along(0, self.heads, "heads"), Along(1, self.heads, "heads")
        names = ("q.weight", "q.bias", "kv.weight", "kv.bias")
        return {**dict.fromkeys(names, across), "out.weight": along}

    def forward(self, x: Tensor, memory: Tensor | None, sight: Sight, store: Store | None = None) -> Tensor:
        """x [B, T, D], memory [B, S, D] (what `peers.enter` gives) -> [B, T, D]; a `store` keeps the memory's
        keys and values."""
        x = self.peers.enter(x)
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        if store is None:
            k, v = self.keys_values(memory)
        else:
            if store.cross is None:
                store.cross = self.keys_values(memory)
            k, v = store.cross
        dropout = self.dropout if self.training else 0.0
        with self.peers.apart(dropout):
            y = self.spread.attend(q, k, v, sight, self.scale, dropout)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return out

    def keys_values(self, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's output [B, S, D], each [B, H, S, E]."""
        assert memory is not None, "cross-attention without a memory or a store"
        k, v = self.kv(memory).view(*memory.shape[:2], -1, 2, self.head_dim).unbind(3)
        return k.transpose(1, 2), v.transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None, dropout: float) -> Tensor:
    """softmax(q k^T * scale + mask) v over [B, H, T, E]; a query that may see nothing gives 0."""
    if sight.sparse is not None:
        return sight.sparse.attend(q, k, v, scale, dropout)
    lead, first_mask = sight.lead, sight.lead_mask
    masks = (first_mask, sight.mask) if lead else (sight.mask,)
    if dropout == 0.0 and sight.mask is not None and biased_attention.suits(q, k, *masks):
        scale = scale or 1 / math.sqrt(q.shape[-1])
        return biased_attention.biased_attention(q, k, v, sight.mask, scale, first_mask if lead else None)
    if not lead:
        return _mix(q, k, v, sight.mask, sight.is_causal, scale, dropout)
    first, rest = q.split_with_sizes([lead, q.shape[2] - lead], dim=2)
    parts = [
        _mix(first, k[:, :, :lead], v[:, :, :lead], first_mask, False, scale, dropout),
        _mix(rest, k, v, sight.mask, False, scale, dropout),
    ]
    return torch.cat(parts, dim=2)


def _mix(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, dropout: float
) -> Tensor:
    """Scaled dot product attention by the faster of PyTorch's kernel and ours."""
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    if dropout == 0.0 and suits(q, k, v, mask):
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)
        mixed: Tensor = blocked_attention(q, k, v, mask, causal, scale or 1 / math.sqrt(q.shape[-1]))
        return mixed
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale
    )
