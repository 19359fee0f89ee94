"""Scores of disentangled attention where positions differ as indices do: no gather, a backward of products.

With one row of a table for each distance, the scores that queries give to distances hold the scores of the
pairs along their diagonals, and a view with other strides reads those. So the two gathers of the published
code, whose backward scatters, become copies of views. Queries (and keys) are cut into blocks: a block
refers to few distances that it has no pair for.

Legend: H heads, B rows, T tokens, E head width, W tokens of a block, N = T + W - 1 distances referred to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mainspring.nn.products import add_product, multiply, one_at_a_time

BLOCK = 64
"""Tokens of a block: wider ones refer to more distances in vain, narrower ones make small products."""


@torch.library.custom_op("mainspring::relative_scores", mutates_args=())
def relative_scores(q: Tensor, k: Tensor, falling: Tensor | None, rising: Tensor | None) -> Tensor:
    """Content-to-content, content-to-position and position-to-content scores of every pair.

    scores[h, b, i, j] = q_i . k_j + q_i . falling[T - 1 - (i - j)] + k_j . rising[T - 1 + (i - j)]

    Args:
        q: queries, times the scale, [H, B, T, E].
        k: keys, [H, B, T, E].
        falling: keys of the distances T - 1 down to 1 - T, [H, 2T - 1, E]; None: without that term.
        rising: queries, times the scale, of the distances 1 - T up to T - 1, [H, 2T - 1, E]; None: without.

    Returns:
        [H, B, T, T].
    """
    heads, rows, length, _ = q.shape
    scores = q.new_empty(heads, rows, length, length)
    written = False
    for table, tokens, turned in ((falling, q, False), (rising, k, True)):
        if table is None:
            continue
        for start, stop, window in _blocks(length):
            blocks, near = _cut(tokens, start, stop), table[:, window]
            for some in _heads(q):
                pairs = _diagonals(multiply(blocks[some], near[some]), rows, stop - start, length)
                if turned:  # two passes: adding from a transposed view is several times slower
                    pairs = pairs.transpose(2, 3).contiguous()
                out = scores[some, :, :, start:stop] if turned else scores[some, :, start:stop]
                if written:
                    out.add_(pairs)
                else:
                    out.copy_(pairs)
        written = True
    flat = scores.view(heads * rows, length, length)
    content_q, content_k = q.reshape(heads * rows, length, -1), k.reshape(heads * rows, length, -1)
    add_product(flat, content_q, content_k, keep=written)
    return scores


@torch.library.custom_op("mainspring::relative_scores_backward", mutates_args=())
def relative_scores_backward(
    grad: Tensor, q: Tensor, k: Tensor, falling: Tensor | None, rising: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `relative_scores` by its arguments (empty for a table that was not given)."""
    rows, length, width = q.shape[1:]
    flat = grad.reshape(-1, length, length)
    by_q = multiply(flat, k.reshape(-1, length, width).transpose(1, 2)).view(q.shape)
    by_k = multiply(flat.transpose(1, 2), q.reshape(-1, length, width).transpose(1, 2)).view(k.shape)
    tables = []
    for table, tokens, by_tokens, turned in ((falling, q, by_q, False), (rising, k, by_k, True)):
        if table is None:
            tables.append(q.new_empty(0))
            continue
        by_table = torch.zeros_like(table)
        for start, stop, window in _blocks(length):
            blocks, near = _cut(tokens, start, stop), table[:, window]
            # Distances without a pair have no gradient, and are the same ones for every head.
            count = blocks[_heads(q)[0]].shape[0]
            spread = table.new_zeros(count, blocks.shape[1], near.shape[1])
            pairs = _diagonals(spread, rows, stop - start, length)
            for some in _heads(q):
                if turned:
                    pairs.copy_(grad[some, :, :, start:stop].transpose(2, 3).contiguous())
                else:
                    pairs.copy_(grad[some, :, start:stop])
                by_block = multiply(spread, near[some].transpose(1, 2))
                by_tokens[some, :, start:stop] += by_block.view(-1, rows, stop - start, width)
                by_table[some, window] += multiply(spread.transpose(1, 2), blocks[some].transpose(1, 2))
        tables.append(by_table)
    return by_q, by_k, tables[0], tables[1]


@relative_scores.register_fake
def _(q: Tensor, k: Tensor, falling: Tensor | None, rising: Tensor | None) -> Tensor:
    return q.new_empty(*q.shape[:3], q.shape[2])


@relative_scores_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, falling: Tensor | None, rising: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tables = [q.new_empty(0) if t is None else torch.empty_like(t) for t in (falling, rising)]
    return torch.empty_like(q), torch.empty_like(k), tables[0], tables[1]


def _keep(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, falling, rising = ctx.saved_tensors
    by_q, by_k, by_falling, by_rising = relative_scores_backward(grad, q, k, falling, rising)
    return by_q, by_k, None if falling is None else by_falling, None if rising is None else by_rising


relative_scores.register_autograd(_differentiate, setup_context=_keep)


def _blocks(length: int) -> Iterator[tuple[int, int, slice]]:
    """First token and end of every block, and the rows of the table for the distances that it refers to."""
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        yield start, stop, slice(length - stop, 2 * length - start - 1)


def _cut(tokens: Tensor, start: int, stop: int) -> Tensor:
    """A block of the tokens, [H, B W, E]."""
    return tokens[:, :, start:stop].reshape(tokens.shape[0], -1, tokens.shape[-1])


def _diagonals(scores: Tensor, rows: int, width: int, length: int) -> Tensor:
    """Of scores by distance [H, B W, N], a view of those by pair, [H, B, W, T]."""
    heads, tokens, distances = scores.shape
    steps = (tokens * distances, width * distances, distances - 1, 1)
    return scores.as_strided((heads, rows, width, length), steps, scores.storage_offset() + width - 1)


def _heads(x: Tensor) -> list[slice]:
    """The heads to multiply at once."""
    return [slice(h, h + 1) for h in range(x.shape[0])] if one_at_a_time(x) else [slice(0, x.shape[0])]
