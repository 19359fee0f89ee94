"""Attention in fp32 on CPU whose scores have a learned bias, in one or two parts, from plain products.

PyTorch's fused kernel gives a bias no gradient; its plain form makes three passes more over the scores, and
scales and copies queries, keys and values for each call. Where the first tokens of a row see one another
alone (a pseudo-masked row), both parts here share one copy of the keys and values, and one gradient of them.

Legend: B rows, H heads, T queries, S keys, E head width, C first tokens; t queries of a part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring.nn.products import multiply

SMALLEST = 1 << 20
"""Multiplications of the scores of all heads and rows from which this is worth it."""


def suits(q: Tensor, k: Tensor, *biases: Tensor | None) -> bool:
    """Whether `biased_attention` is faster than PyTorch's for such operands (biases: of the parts)."""
    if torch.compiler.is_compiling() or q.numel() * k.shape[2] < SMALLEST or not torch.is_grad_enabled():
        return False
    # Subclasses (sharded, fake) know torch's own operators only.
    return any(b is not None and b.requires_grad for b in biases) and all(
        type(t) is Tensor and t.device.type == "cpu" and t.dtype == torch.float32 for t in (q, k, *biases)
    )


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, first: Tensor | None = None
) -> Tensor:
    """softmax(q k^T * scale + bias) v; a query whose scores are all minus infinity gives 0.

    Args:
        q: [B, H, T, E].
        k: [B, H, S, E].
        v: [B, H, S, E].
        bias: broadcastable to [B, H, T, S], or [B, H, T - C, S] of the tokens after the first; minus infinity
            forbids.
        scale: factor of the products.
        first: broadcastable to [B, H, C, C] (its last dimension is C): the first C tokens see one another
            alone, by this bias.

    Returns:
        [B, H, T, E].
    """
    mixed: Tensor = _Biased.apply(q, k, v, bias, scale, first)  # type: ignore[no-untyped-call]
    return mixed


class _Biased(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, first: Tensor | None
    ) -> Tensor:
        shape = q.shape
        scaled, keys, values = _flat(q * scale), _flat(k), _flat(v)
        out = torch.empty_like(scaled)
        every = []
        lead = 0 if first is None else first.shape[-1]
        biases = [bias] if first is None else [first, bias]
        for (start, stop, seen), part in zip(_bounds(lead, shape[2], k.shape[2]), biases, strict=True):
            scores = multiply(scaled[:, start:stop], keys[:, :seen])
            scores.view(*shape[:2], stop - start, seen).add_(part)
            weights = torch.softmax(scores, -1)
            if weights[:, :, 0].isnan().any():
                # A query that sees nothing has no weights; other NaN stay, as they tell of an overflow.
                weights.masked_fill_((scores == -torch.inf).all(-1, keepdim=True), 0.0)
            out[:, start:stop] = multiply(weights, values[:, :seen].transpose(1, 2))
            every.append(weights)
        ctx.save_for_backward(scaled, keys, values, *every)
        ctx.scale, ctx.lead, ctx.biases = scale, lead, [b.shape for b in biases]
        return out.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *every = ctx.saved_tensors
        push, rows = _flat(grad), grad.shape[0]
        by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        by_bias = []
        bounds = _bounds(ctx.lead, q.shape[1], k.shape[1])
        for (start, stop, seen), weights, shape in zip(bounds, every, ctx.biases, strict=True):
            some, keys, values = q[:, start:stop], k[:, :seen], v[:, :seen]
            pushed = push[:, start:stop]
            by_weights = multiply(pushed, values)
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            by_q[:, start:stop] = multiply(by_scores, keys.transpose(1, 2))
            by_k[:, :seen] += multiply(by_scores.transpose(1, 2), some.transpose(1, 2))
            by_v[:, :seen] += multiply(weights.transpose(1, 2), pushed.transpose(1, 2))
            by_bias.append(by_scores.view(rows, -1, *by_scores.shape[1:]).sum_to_size(shape))
        by = [t.view(rows, -1, *t.shape[1:]) for t in (by_q.mul_(ctx.scale), by_k, by_v)]
        return *by, by_bias[-1], None, by_bias[0] if ctx.lead else None


def _bounds(lead: int, length: int, keys: int) -> list[tuple[int, int, int]]:
    """First query, end and number of keys of each part."""
    whole = (lead, length, keys)
    return [(0, lead, lead), whole] if lead else [whole]


def _flat(x: Tensor) -> Tensor:
    """[B, H, T, E] -> contiguous [B H, T, E]."""
    return x.reshape(-1, *x.shape[2:]).contiguous()
