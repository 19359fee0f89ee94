"""Disentangled attention where positions differ as indices do: no gather, a backward of products.

With one row of a table for each distance, the scores that queries give to distances hold the scores of the
pairs along their diagonals, and a view with other strides reads those. So the two gathers of the published
code, whose backward scatters, become copies of views. Queries (and keys) are cut into blocks: a block
refers to few distances that it has no pair for. A few heads and rows go all the way, from scores to mixed
values, before the next do, so that the passes over their scores find them in the cache.

Legend: H heads, B rows, T tokens, E head width, W tokens of a block, N = T + W - 1 distances referred to;
h and b heads and rows of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mainspring.nn.products import multiply, one_at_a_time

BLOCK = {256: 64, 1 << 62: 128}
"""Tokens of a block, by the most tokens of a row: wider ones refer to more distances in vain, narrower ones
make small products."""
PIECE = {"cpu": 1 << 22}
"""Bytes of the scores worked on at once: they stay near a core. Elsewhere: all."""


@torch.library.custom_op("mainspring::relative_attention", mutates_args=())
def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    falling: Tensor | None,
    rising: Tensor | None,
    blocked: Tensor | None,
    kept: Tensor | None,
    keep_weights: bool,
) -> tuple[Tensor, Tensor]:
    """Values mixed by the softmax of content-to-content, content-to-position and position-to-content scores.

    scores[h, b, i, j] = q_i . k_j + q_i . falling[T - 1 - (i - j)] + k_j . rising[T - 1 + (i - j)]

    Args:
        q: queries, times the scale, [H, B, T, E].
        k: keys, [H, B, T, E].
        v: values, [H, B, T, E].
        falling: keys of the distances T - 1 down to 1 - T, [H, 2T - 1, E]; None: without that term.
        rising: queries, times the scale, of the distances 1 - T up to T - 1, [H, 2T - 1, E]; None: without.
        blocked: bool, broadcastable to [1, B, T, T], True where a key may not be seen.
        kept: factors on the weights, [H, B, T, T] (dropout's).
        keep_weights: give the weights, as a gradient needs them.

    Returns:
        [H, B, T, E]; the weights [H, B, T, T], or nothing.
    """
    out = torch.empty_like(v)
    every = q.new_empty(*q.shape[:3], q.shape[2] if keep_weights else 0)
    for piece in _pieces(q):
        heads, rows = piece
        scores = _multiply(q[piece], k[piece])
        if falling is not None:
            _add_by_distance(scores, q[piece], falling[heads])
        if rising is not None:
            _add_by_distance(scores, k[piece], rising[heads], turned=True)
        if blocked is not None:
            some = blocked if blocked.shape[1] == 1 else blocked[:, rows]
            scores.masked_fill_(some, torch.finfo(scores.dtype).min)
        weights = every[piece] if keep_weights else torch.empty_like(scores)
        torch.softmax(scores, -1, out=weights)
        mixed = weights if kept is None else torch.mul(weights, kept[piece], out=scores)
        out[piece] = _multiply(mixed, v[piece].transpose(2, 3))
    return out, every


@torch.library.custom_op("mainspring::relative_attention_backward", mutates_args=())
def relative_attention_backward(
    grad: Tensor,
    weights: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    falling: Tensor | None,
    rising: Tensor | None,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `relative_attention` by q, k, v and the tables (empty for one that was not given)."""
    by_q, by_k, by_v = (torch.empty_like(t) for t in (q, k, v))
    by_falling, by_rising = (q.new_zeros(0) if t is None else torch.zeros_like(t) for t in (falling, rising))
    for piece in _pieces(q):
        heads, _ = piece
        some, push = weights[piece], grad[piece]
        by_weights = _multiply(push, v[piece])
        if kept is not None:
            by_weights *= kept[piece]
        by_scores = torch._softmax_backward_data(by_weights, some, -1, some.dtype)
        mixed = some if kept is None else torch.mul(some, kept[piece], out=by_weights)
        by_v[piece] = _multiply(mixed.transpose(2, 3), push.transpose(2, 3))
        by_q[piece] = _multiply(by_scores, k[piece].transpose(2, 3))
        by_k[piece] = _multiply(by_scores.transpose(2, 3), q[piece].transpose(2, 3))
        if falling is not None:
            _differentiate_term(by_scores, q[piece], falling[heads], by_q[piece], by_falling[heads])
        if rising is not None:
            _differentiate_term(_turned(by_scores), k[piece], rising[heads], by_k[piece], by_rising[heads])
    return by_q, by_k, by_v, by_falling, by_rising


@relative_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    falling: Tensor | None,
    rising: Tensor | None,
    blocked: Tensor | None,
    kept: Tensor | None,
    keep_weights: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), q.new_empty(*q.shape[:3], q.shape[2] if keep_weights else 0)


@relative_attention_backward.register_fake
def _(
    grad: Tensor,
    weights: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    falling: Tensor | None,
    rising: Tensor | None,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_falling, by_rising = (q.new_empty(0) if t is None else torch.empty_like(t) for t in (falling, rising))
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), by_falling, by_rising


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, falling, rising, _, kept, _ = inputs
    ctx.save_for_backward(output[1], q, k, v, falling, rising, kept)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    weights, q, k, v, falling, rising, kept = ctx.saved_tensors
    *by, by_falling, by_rising = relative_attention_backward(
        grad.contiguous(), weights, q, k, v, falling, rising, kept
    )
    tables = (None if falling is None else by_falling, None if rising is None else by_rising)
    return *by, *tables, None, None, None


relative_attention.register_autograd(_differentiate, setup_context=_keep)


def _pieces(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads and rows to work on at once."""
    heads, rows, length = x.shape[:3]
    room = PIECE.get(x.device.type)
    pairs = heads * rows if room is None else max(1, room // (length * length * x.element_size()))
    some_rows = min(rows, pairs)
    some_heads = 1 if one_at_a_time(x) else max(1, pairs // rows)
    for head in range(0, heads, some_heads):
        for row in range(0, rows, some_rows):
            yield slice(head, head + some_heads), slice(row, row + some_rows)


def _add_by_distance(scores: Tensor, tokens: Tensor, table: Tensor, *, turned: bool = False) -> None:
    """Add a term to the scores [h, b, T, T]; turned: the tokens are the keys."""
    rows, length = tokens.shape[1:3]
    for start, stop, window in windows(length):
        by_distance = multiply(_cut(tokens, start, stop), table[:, window].contiguous())
        pairs = _diagonals(by_distance, rows, stop - start, length)
        if turned:  # two passes: adding from a transposed view is several times slower
            scores[:, :, :, start:stop] += pairs.transpose(2, 3).contiguous()
        else:
            scores[:, :, start:stop] += pairs


def _differentiate_term(
    by_scores: Tensor, tokens: Tensor, table: Tensor, by_tokens: Tensor, by_table: Tensor
) -> None:
    """Add a term's gradients by its tokens and its table, from those by its scores [h, b, T, T]."""
    rows, length, width = tokens.shape[1:]
    spread = None
    for start, stop, window in windows(length):
        blocks, near = _cut(tokens, start, stop), table[:, window]
        if spread is None or spread.shape[1] != blocks.shape[1]:
            # Distances without a pair have no gradient, and are the same ones for every block.
            spread = table.new_zeros(*blocks.shape[:2], near.shape[1])
        _diagonals(spread, rows, stop - start, length).copy_(by_scores[:, :, start:stop])
        by_block = multiply(spread, near.transpose(1, 2))
        by_tokens[:, :, start:stop] += by_block.view(-1, rows, stop - start, width)
        by_table[:, window] += multiply(spread.transpose(1, 2), blocks.transpose(1, 2))


def _turned(scores: Tensor) -> Tensor:
    """Scores [h, b, T, T] with queries and keys exchanged, contiguous."""
    length = scores.shape[3]
    if length * scores.element_size() % 1024 == 0:
        # Elements below one another would share a few sets of the cache: copied from rows of another length,
        # they take half the time.
        scores = scores.new_empty(*scores.shape[:3], length + 32)[..., :length].copy_(scores)
    return scores.transpose(2, 3).contiguous()


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """For each head and row a [h, b, M, K] times the transpose of b [h, b, L, K]: [h, b, M, L]."""
    return multiply(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:3], b.shape[2])


def windows(length: int) -> Iterator[tuple[int, int, slice]]:
    """First token and end of every block, and the rows of the table for the distances that it refers to."""
    width = next(width for most, width in BLOCK.items() if length <= most)
    for start in range(0, length, width):
        stop = min(start + width, length)
        yield start, stop, slice(length - stop, 2 * length - start - 1)


def _cut(tokens: Tensor, start: int, stop: int) -> Tensor:
    """A block of the tokens, [h, b W, E]."""
    return tokens[:, :, start:stop].reshape(tokens.shape[0], -1, tokens.shape[-1])


def _diagonals(scores: Tensor, rows: int, width: int, length: int) -> Tensor:
    """Of scores by distance [h, b W, N], a view of those by pair, [h, b, W, T]."""
    heads, tokens, distances = scores.shape
    steps = (tokens * distances, width * distances, distances - 1, 1)
    return scores.as_strided((heads, rows, width, length), steps, scores.storage_offset() + width - 1)
