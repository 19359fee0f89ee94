"""Attention on CPU from batched products, a block of queries at a time.

PyTorch's fused kernel for CPU multiplies small tiles and, in bfloat16, is slow at it unless the processor has
tile instructions; batched products of oneDNN run at their full rate (3.7 ms against 9.7 for 2 x 8 heads of
256 tokens, forward and backward, on one thread of an AMD EPYC). As in the fused kernel, nothing of the size
of the scores is kept for backward: a block's scores fit the cache, and are computed again (Rabe and Staats
2021, arXiv 2112.05682). A causal block stops at its last query.

Scores are rounded to the dtype of the queries before the softmax, which computes in fp32.

Legend: B rows, H heads, T queries, S keys, E head width, W queries of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

SMALLEST = 1 << 20
"""Multiplications of a head and row's scores, times the heads and rows, from which this is worth it."""
SCORES = 1 << 19
"""Scores worked on at once: they stay in a core's second cache, or nearly."""
CAUSAL_BLOCK = 64
"""Queries of a block where each sees what precedes it: smaller blocks compute fewer scores in vain."""


def suits(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Whether `blocked_attention` is faster than PyTorch's kernel for such operands."""
    if q.dtype != torch.bfloat16 or (torch.compiler.is_compiling() and not torch.is_grad_enabled()):
        return False  # a function that is compiled for inference has sizes that are not known
    if q.shape[2] == 1 or q.numel() * k.shape[2] < SMALLEST:
        return False
    operands = (q, k, v) if bias is None else (q, k, v, bias)
    # Subclasses (sharded, fake) know torch's own operators only.
    plain = all(type(t) is Tensor and t.device.type == "cpu" for t in operands)
    return plain and q.dtype == k.dtype == v.dtype and _has_bf16_without_tiles()


def _has_bf16_without_tiles() -> bool:
    return (
        bool(torch.backends.mkldnn.enabled)
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and not torch.cpu._is_amx_tile_supported()
    )


@torch.library.custom_op("mainspring::blocked_attention", mutates_args=())
def blocked_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, is_causal: bool, scale: float
) -> Tensor:
    """softmax(q k^T * scale + bias) v; a query whose scores are all minus infinity gives 0.

    Args:
        q: [B, H, T, E].
        k: [B, H, S, E].
        v: [B, H, S, E].
        bias: in the dtype of q, broadcastable to [B, H, T, S]; minus infinity forbids.
        is_causal: query i sees keys 0 to i (T = S then).
        scale: factor of the products.

    Returns:
        [B, H, T, E], in memory [B, T, H, E].
    """
    out = _laid_out(q)
    for rows, blocks in _pieces(q, k, is_causal):
        queries, keys, values = _flat(q[rows] * scale), _flat(k[rows]), _flat(v[rows])
        result = torch.empty_like(queries)
        for start, stop, seen in blocks:
            part = _cut(bias, rows, start, stop)
            weights = _weights(queries[:, start:stop], keys[:, :seen], q.shape[1], part, is_causal)
            torch.bmm(weights, values[:, :seen], out=result[:, start:stop])
        out[rows] = result.view(out[rows].shape)
    return out


@torch.library.custom_op("mainspring::blocked_attention_backward", mutates_args=())
def blocked_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    scale: float,
    by_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `blocked_attention` by q, k, v and the bias (empty unless `by_bias`)."""
    grads = [_laid_out(t) for t in (q, k, v)]
    total = torch.zeros(bias.shape if by_bias and bias is not None else 0, dtype=torch.float32)
    for rows, blocks in _pieces(q, k, is_causal):
        queries, keys, values = _flat(q[rows] * scale), _flat(k[rows]), _flat(v[rows])
        pushed = _flat(grad[rows])
        grad_q = torch.empty_like(queries)
        grad_k, grad_v = torch.zeros_like(keys), torch.zeros_like(values)
        for start, stop, seen in blocks:
            some, push = queries[:, start:stop], pushed[:, start:stop]
            part = _cut(bias, rows, start, stop)
            weights = _weights(some, keys[:, :seen], q.shape[1], part, is_causal)
            by_weights = torch.bmm(push, values[:, :seen].transpose(1, 2))
            grad_v[:, :seen].baddbmm_(weights.transpose(1, 2), push)
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            torch.bmm(by_scores, keys[:, :seen], out=grad_q[:, start:stop])
            grad_k[:, :seen].baddbmm_(by_scores.transpose(1, 2), some)
            if by_bias:
                share = _cut(total, rows, start, stop)
                assert share is not None
                share += _sum_to(by_scores.view(-1, q.shape[1], *by_scores.shape[1:]), share.shape)
        for whole, piece in zip(grads, (grad_q.mul_(scale), grad_k, grad_v), strict=True):
            whole[rows] = piece.view(whole[rows].shape)
    return grads[0], grads[1], grads[2], total.to(q.dtype)


@blocked_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    return _laid_out(q)


@blocked_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    scale: float,
    by_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    by = q.new_empty(bias.shape if by_bias and bias is not None else 0)
    return _laid_out(q), _laid_out(k), _laid_out(v), by


def _laid_out(x: Tensor) -> Tensor:
    """An empty [B, H, T, E] of memory [B, T, H, E]."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, bias, ctx.is_causal, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, bias)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, bias = ctx.saved_tensors
    by_bias = bias is not None and ctx.needs_input_grad[3]
    by_q, by_k, by_v, by = blocked_attention_backward(grad, q, k, v, bias, ctx.is_causal, ctx.scale, by_bias)
    return by_q, by_k, by_v, by if by_bias else None, None, None


blocked_attention.register_autograd(_differentiate, setup_context=_keep)


def _pieces(q: Tensor, k: Tensor, is_causal: bool) -> Iterator[tuple[slice, list[tuple[int, int, int]]]]:
    """Rows to work on at once, and their blocks: first query, end, and how many keys they may see."""
    count, heads, length = q.shape[:3]
    keys = k.shape[2]
    width = CAUSAL_BLOCK if is_causal else min(length, max(CAUSAL_BLOCK, SCORES // (heads * keys)))
    rows = max(1, SCORES // (heads * min(width, length) * keys))
    starts = range(0, length, width)
    blocks = [(a, min(a + width, length), min(a + width, length) if is_causal else keys) for a in starts]
    for first in range(0, count, rows):
        yield slice(first, first + rows), blocks


def _flat(x: Tensor) -> Tensor:
    """[B, H, T, E] -> contiguous [B H, T, E]."""
    return x.reshape(-1, *x.shape[2:]).contiguous()


def _sum_to(x: Tensor, shape: torch.Size) -> Tensor:
    """Sum, in fp32, over the dimensions that the shape has only one of."""
    single = [d for d in range(x.ndim) if shape[d] == 1 != x.shape[d]]
    return x.sum(single, keepdim=True, dtype=torch.float32) if single else x


def _cut(bias: Tensor | None, rows: slice, start: int, stop: int) -> Tensor | None:
    """What of a bias is for some rows and queries; still broadcastable to them."""
    if bias is None:
        return None
    part = bias if bias.shape[0] == 1 else bias[rows]
    return part if bias.shape[2] == 1 else part[:, :, start:stop]


def _weights(q: Tensor, k: Tensor, heads: int, bias: Tensor | None, is_causal: bool) -> Tensor:
    """softmax(q k^T + bias) of a block, [B H, W, S]; causal: the last W of S keys are at the queries."""
    if bias is None:
        scores = torch.bmm(q, k.transpose(1, 2))
    else:
        scores = q.new_empty(q.shape[0] // heads, heads, q.shape[1], k.shape[1]).copy_(bias).flatten(0, 1)
        scores.baddbmm_(q, k.transpose(1, 2))  # one rounding, of the sum
    if is_causal:
        # Adding is several times faster than filling where a mask is true.
        width = q.shape[1]
        scores[:, :, -width:].add_(torch.full((width, width), -math.inf, dtype=q.dtype).triu_(1))
    weights = torch.softmax(scores, -1)
    if bias is not None and weights[:, :, 0].isnan().any():
        # A query that sees nothing has no weights; other NaN stay, as they tell of an overflow.
        weights.masked_fill_((scores == -math.inf).all(-1, keepdim=True), 0.0)
    return weights
