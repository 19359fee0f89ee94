"""Attention over tokens of several ranks with keys and values that go round.

Ring attention, Liu et al. 2023 (arXiv 2310.01889). Each rank keeps its queries. In s rounds it sees the keys
and values of every rank, which pass from neighbour to neighbour while it computes, and merges what each round
gives by the logarithms of the sums of exponentials (the online softmax of Milakov and Gimelshein 2018, arXiv
1805.02867). Backward sends them round once more; their gradients travel with them and end where they belong.
Of a round's scores a few queries are worked on at a time, with the keys between the first and the last that
they see; where nothing is seen, nothing is computed. With causal rows dealt out in a zigzag (`split_tokens`)
every rank then has as much to do in every round (Brandon et al. 2023, Striped Attention, arXiv 2311.09431,
section 3, deal out single tokens to the same end).

Legend: B rows, t queries and keys of a rank, s ranks, H heads, E head width, W queries and R keys of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring import comm
from mainspring.data.batch import TokenBatch
from mainspring.nn.attention import Look, Sight, gated_sight
from mainspring.nn.disentangled import DisentangledAttention, DistanceVectors, Relative
from mainspring.parallel.sequence.heads import first_token
from mainspring.parallel.sequence.tokens import join_tokens
from mainspring.parallel.tensor.operators import Line

SCORES = 1 << 21
"""Scores worked on at once."""
FEWEST = 16
"""Queries worked on at once at least."""


class Ring:
    """A `TokenSpread` in which keys and values go round."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def sight(self, look: Look, queries: TokenBatch, keys: TokenBatch | None = None) -> Sight:
        """Of the queries here: who sees whom of each rank's keys."""
        parts: list[Sight | None] = []
        angles = None
        for share in join_tokens(queries if keys is None else keys, self.line):
            part = look(queries, share)
            angles = part.angles
            reach = None if part.mask is None or part.mask.is_meta else reach_of(part.mask)
            nothing = reach is not None and bool((reach[0] >= reach[1]).all())
            parts.append(None if nothing else replace(part, reach=reach))
        return Sight(angles=angles, parts=tuple(parts))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None, dropout: float,
        factor: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """q [B, H, t, E], k and v [B, H, S / s, E] -> [B, H, t, E]."""
        masks = [None if part is None else gated_sight(part, factor).mask for part in sight.parts]
        seen = tuple(part is not None for part in sight.parts)
        reach = tuple(None if part is None else part.reach for part in sight.parts)
        seed = int(torch.randint(1 << 62, ())) if dropout else 0
        how = _How(self.line, seen, reach, scale or 1 / math.sqrt(q.shape[-1]), dropout, seed)
        mixed: Tensor = _RingAttention.apply(q, k, v, how, *masks)  # type: ignore[no-untyped-call]
        return mixed

    def by_distance(
        self, inner: DisentangledAttention, q: Tensor, k: Tensor, v: Tensor, vectors: DistanceVectors,
        relative: Relative,
    ) -> Tensor:  # fmt: skip
        """Refused when a model is spread."""
        raise AssertionError("disentangled attention does not go round a ring")

    def first(self, hidden: Tensor) -> Tensor:
        """The first rank's first token of each row [B, 1, D], on all ranks."""
        return first_token(hidden, self.line)


@dataclass(frozen=True)
class _How:
    line: Line
    seen: tuple[bool, ...]
    reach: tuple[Tensor | None, ...]
    scale: float
    dropout: float
    seed: int


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, how: _How, *masks: Tensor | None) -> Tensor:
        line = how.line
        with torch.autocast(q.device.type, enabled=False):
            q = q.contiguous()
            out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float32, device=q.device)
            total = torch.full(q.shape[:3], -math.inf, dtype=torch.float32, device=q.device)
            block = torch.stack([k, v])
            for turn in range(line.size):
                source = (line.index - turn) % line.size
                passing = _Passing(block, line) if turn + 1 < line.size else None
                if how.seen[source]:
                    for rows, mixed, sums in _attend_block(q, block, masks[source], how, source):
                        _merge(out[:, :, rows], total[:, :, rows], mixed, sums)
                if passing is not None:
                    block = passing.wait()
            result = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, result, total, *masks)
        ctx.how = how
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, total, *masks = ctx.saved_tensors
        how: _How = ctx.how
        line = how.line
        by_masks: list[Tensor | None] = [
            torch.zeros_like(mask) if mask is not None and needed else None
            for mask, needed in zip(masks, ctx.needs_input_grad[4:], strict=True)
        ]
        with torch.autocast(q.device.type, enabled=False):
            grad = grad.contiguous()
            delta = (grad.float() * out.float()).sum(-1)
            by_q = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
            block = torch.stack([k, v])
            home = torch.zeros(block.shape, dtype=torch.float32, device=q.device)
            arriving: _Passing | None = None
            for turn in range(line.size):
                source = (line.index - turn) % line.size
                passing = _Passing(block, line) if turn + 1 < line.size else None
                share = torch.zeros_like(home) if turn else home
                if how.seen[source]:
                    saved = (q, block, masks[source], total, grad, delta)
                    _differentiate_block(saved, how, source, by_q, share, by_masks[source])
                if arriving is not None:
                    share += arriving.wait()
                if turn:  # gradients go on with the block they are of; after the last turn, home
                    arriving = _Passing(share, line)
                if passing is not None:
                    block = passing.wait()
            assert arriving is not None
            by_k, by_v = home.add_(arriving.wait()).to(k.dtype).unbind()
        return by_q.to(q.dtype), by_k, by_v, None, *by_masks


class _Passing:
    """A tensor on its way to the next rank, and the one that comes from the rank before."""

    def __init__(self, tensor: Tensor, line: Line) -> None:
        after, before = (line.index + 1) % line.size, (line.index - 1) % line.size
        flat, self._came = tensor.view(-1), torch.empty_like(tensor)
        nothing = flat[:0]
        outbox = [flat if rank == after else nothing for rank in range(line.size)]
        inbox = [self._came.view(-1) if rank == before else nothing for rank in range(line.size)]
        self._pending = comm.all_to_all(
            inbox, outbox, name=line.name, largest=flat.numel(), group=line.group, counter=line.counter
        )

    def wait(self) -> Tensor:
        self._pending.wait()
        return self._came


def reach_of(mask: Tensor) -> Tensor:
    """First and first unseen key of each query, int64 [2, T or 1]; (S, 0) of one that sees none.

    Args:
        mask: bool, or float with minus infinity where it forbids, [B or 1, H or 1, T or 1, S].

    >>> reach_of(torch.tensor([[[[False, True, True, False], [False] * 4]]])).tolist()
    [[1, 4], [3, 0]]
    """
    seen = (mask if mask.dtype == torch.bool else mask != -math.inf).flatten(0, 1).any(0)
    index = torch.arange(seen.shape[1], device=seen.device)
    first = index.where(seen, seen.shape[1]).amin(1)
    after = (index + 1).where(seen, 0).amax(1)
    return torch.stack([first, after]).cpu()


def _chunks(q: Tensor, keys: int, reach: Tensor | None) -> Iterator[tuple[slice, slice]]:
    """A few queries at a time, with the keys between the first and the last that they see.

    None of them reaches from one half of the queries into the other: in a zigzag these lie far apart.
    """
    width = max(FEWEST, SCORES // (q.shape[0] * q.shape[1] * keys))
    total, half = q.shape[2], -(-q.shape[2] // 2) if q.shape[2] > FEWEST else q.shape[2]
    for begin, end in ((0, half), (half, total)):
        for start in range(begin, end, width):
            rows = slice(start, min(start + width, end))
            if reach is None:
                yield rows, slice(0, keys)
                continue
            some = reach if reach.shape[1] == 1 else reach[:, rows]
            first, after = int(some[0].min()), int(some[1].max())
            if first < after:
                yield rows, slice(first, after)


def _part(mask: Tensor, rows: slice, keys: slice) -> Tensor:
    """Of a mask [B or 1, H or 1, T or 1, S or 1] what some queries and keys have."""
    some = mask if mask.shape[2] == 1 else mask[:, :, rows]
    return some if mask.shape[3] == 1 else some[..., keys]


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, rows: slice, keys: slice, scale: float) -> Tensor:
    """fp32 [B, H, W, R], minus infinity where a mask forbids."""
    scores = (q[:, :, rows] * scale @ k[:, :, keys].transpose(2, 3)).float()
    if mask is None:
        return scores
    some = _part(mask, rows, keys)
    return scores.masked_fill_(~some, -math.inf) if some.dtype == torch.bool else scores.add_(some)


def _kept(scores: Tensor, how: _How, source: int, rows: slice) -> Tensor | None:
    """Dropout's factors, the same whenever they are asked for."""
    if not how.dropout:
        return None
    generator = torch.Generator(scores.device).manual_seed(how.seed + (source << 40) + rows.start)
    draws = torch.rand(scores.shape, generator=generator, device=scores.device)
    return (draws >= how.dropout).float().div_(1 - how.dropout)


def _attend_block(
    q: Tensor, block: Tensor, mask: Tensor | None, how: _How, source: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Chunk by chunk of the queries: values mixed by this block's softmax, and its log-sums."""
    k, v = block.unbind()
    for rows, keys in _chunks(q, k.shape[2], how.reach[source]):
        scores = _scores(q, k, mask, rows, keys, how.scale)
        sums = scores.logsumexp(-1)
        weights = scores.sub_(_finite(sums)[..., None]).exp_()
        kept = _kept(weights, how, source, rows)
        weights = weights if kept is None else weights.mul_(kept)
        yield rows, (weights.to(v.dtype) @ v[:, :, keys]).float(), sums


def _merge(out: Tensor, total: Tensor, mixed: Tensor, sums: Tensor) -> None:
    """Take a block's result into what there is, in place."""
    joint = torch.logaddexp(total, sums)
    base = _finite(joint)
    out.mul_((total - base).exp()[..., None]).add_(mixed.mul_((sums - base).exp()[..., None]))
    total.copy_(joint)


def _differentiate_block(
    saved: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor],
    how: _How,
    source: int,
    by_q: Tensor,
    by_block: Tensor,
    by_mask: Tensor | None,
) -> None:
    """Add a block's gradients to `by_q`, `by_block` and `by_mask`."""
    q, block, mask, total, grad, delta = saved
    k, v = block.unbind()
    by_k, by_v = by_block.unbind()
    for rows, keys in _chunks(q, k.shape[2], how.reach[source]):
        push = grad[:, :, rows]
        scores = _scores(q, k, mask, rows, keys, how.scale)
        weights = scores.sub_(_finite(total[:, :, rows])[..., None]).exp_()
        kept = _kept(weights, how, source, rows)
        by_weights = (push @ v[:, :, keys].transpose(2, 3)).float()
        mixing = weights
        if kept is not None:
            by_weights.mul_(kept)
            mixing = weights * kept
        by_v[:, :, keys] += mixing.to(push.dtype).transpose(2, 3) @ push
        by_scores = by_weights.sub_(delta[:, :, rows, None]).mul_(weights)
        if by_mask is not None:
            there = _part(by_mask, rows, keys)
            there += by_scores.sum_to_size(there.shape)
        low = by_scores.to(q.dtype)
        by_q[:, :, rows] += (low @ k[:, :, keys]) * how.scale
        by_k[:, :, keys] += (low.transpose(2, 3) @ q[:, :, rows]) * how.scale


def _finite(sums: Tensor) -> Tensor:
    """Log-sums with 0 for those of queries that see nothing, so that their weights are exp(-inf) = 0."""
    return sums.masked_fill(sums == -math.inf, 0.0)
