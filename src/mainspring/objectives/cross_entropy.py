"""Cross entropy whose gradient is made in the forward pass, a few rows at a time.

d loss / d logits = softmax(logits) - onehot(label): with the softmax at hand, the gradient is too. So one
pass over pieces that stay in the cache replaces a cast of all logits to fp32, a log-softmax, and its
backward; and of [N, V] only the gradient is kept, in the dtype of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring.data.batch import IGNORE

PIECE = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits worked on at once: fp32 copies of so many stay in a core's cache, or in bounds of an accelerator's
memory."""


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over rows of -log softmax(logits)[label], computed in fp32: fp32 scalar.

    Args:
        logits: [N, V], any floating dtype.
        labels: [N] int64; rows with `IGNORE` count nothing.
    """
    return cross_entropies(logits, labels).sum()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label] of each row, computed in fp32: fp32 [N], 0 where the label is `IGNORE`.

    Sums over parts of the rows then need no copies of the logits.

    Args:
        logits: [N, V], any floating dtype.
        labels: [N] int64.
    """
    terms: Tensor = _CrossEntropies.apply(logits, labels)  # type: ignore[no-untyped-call]
    return terms


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, pad: int = 0) -> Tensor:
    """Sum over rows of KL(q || softmax(logits)), computed in fp32: fp32 scalar, in nats.

    q is 1 - smoothing at the label, 0 at `pad`, and smoothing / (V - 2) at every other token, as in the
    published code of s2s-ft. Without smoothing this is the cross entropy.

    Args:
        logits: [N, V], any floating dtype.
        labels: [N] int64, none of them `pad`; rows with `IGNORE` count nothing.
        smoothing: probability spread over the other tokens, in [0, 1).
        pad: the token that gets none.
    """
    if smoothing == 0.0:
        return summed_cross_entropy(logits, labels)
    others = logits.shape[1] - 2
    logp = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    gold = logp.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    rest = logp.sum(1) - gold - logp[:, pad]
    entropy = (1 - smoothing) * math.log(1 - smoothing) + smoothing * math.log(smoothing / others)
    terms = entropy - (1 - smoothing) * gold - smoothing / others * rest
    return terms.masked_fill(labels == IGNORE, 0.0).sum()


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        every = torch.empty(labels.shape, dtype=torch.float32, device=logits.device)
        for start, rows in _pieces(logits):
            piece, label = logits[start : start + rows], labels[start : start + rows]
            ignored = label == IGNORE
            target = label.masked_fill(ignored, 0)[:, None]
            largest, where = piece.max(dim=1, keepdim=True)
            softmax = torch.softmax(piece, dim=1, dtype=torch.float32)
            # log of the normaliser by way of the largest term, whose probability (1/V or more) never
            # underflows.
            normaliser = largest.float() - softmax.gather(1, where).log()
            terms = normaliser - piece.gather(1, target).float()
            every[start : start + rows] = terms.masked_fill(ignored[:, None], 0.0)[:, 0]
            if gradient is not None:
                softmax.scatter_add_(1, target, torch.full_like(terms, -1.0))
                softmax.masked_fill_(ignored[:, None], 0.0)
                gradient[start : start + rows] = softmax
        ctx.save_for_backward(gradient)
        return every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        scaled = torch.empty_like(gradient)
        for start, rows in _pieces(gradient):
            # In fp32: a factor rounded to bf16 would scale the whole gradient wrongly.
            factor = grad_output[start : start + rows, None]
            scaled[start : start + rows] = gradient[start : start + rows].float() * factor
        return scaled, None


def _pieces(logits: Tensor) -> Iterator[tuple[int, int]]:
    """Where each piece begins, and its number of rows."""
    rows = max(1, PIECE.get(logits.device.type, PIECE["cuda"]) // max(1, logits.shape[1]))
    for start in range(0, logits.shape[0], rows):
        yield start, rows
