"""Cross entropy whose gradient is made in the forward pass, a few rows at a time.

d loss / d logits = softmax(logits) - target: with the softmax at hand, the gradient is too. So one pass over
pieces that stay in the cache replaces a cast of all logits to fp32, a log-softmax, and its backward; and of
[N, V] only the gradient is kept, in the dtype of the logits.

Where the logits of a token lie on several ranks, each has a part of the gradient, and all that travels are
three numbers a row (Shoeybi et al. 2019, arXiv 1909.08053, section 3; `mainspring.nn.vocabulary`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring.data.batch import IGNORE
from mainspring.nn.vocabulary import WHOLE, Vocabulary

PIECE = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits worked on at once: fp32 copies of so many stay in a core's cache, or in bounds of an accelerator's
memory."""


class Smoothing(NamedTuple):
    """Probability that is taken from the label and spread over other tokens."""

    amount: float
    """In [0, 1)."""
    others: int
    """Tokens that share it: all but the label and `pad`."""
    pad: int
    """The token that gets none."""

    @property
    def share(self) -> float:
        """Probability of each of the others."""
        return self.amount / self.others

    @property
    def entropy(self) -> float:
        """Sum of q log q over tokens."""
        kept = (1 - self.amount) * math.log(1 - self.amount)
        return kept + self.amount * math.log(self.share) if self.amount else 0.0


NONE = Smoothing(0.0, 1, 0)


def summed_cross_entropy(logits: Tensor, labels: Tensor, vocabulary: Vocabulary = WHOLE) -> Tensor:
    """Sum over rows of -log softmax(logits)[label], computed in fp32: fp32 scalar.

    Args:
        logits: [N, C], any floating dtype.
        labels: [N] int64; rows with `IGNORE` count nothing.
        vocabulary: which tokens the columns of the logits are.
    """
    return cross_entropies(logits, labels, vocabulary).sum()


def cross_entropies(logits: Tensor, labels: Tensor, vocabulary: Vocabulary = WHOLE) -> Tensor:
    """-log softmax(logits)[label] of each row, computed in fp32: fp32 [N], 0 where the label is `IGNORE`.

    Sums over parts of the rows then need no copies of the logits.

    Args:
        logits: [N, C], any floating dtype.
        labels: [N] int64.
        vocabulary: which tokens the columns of the logits are.
    """
    terms: Tensor = _CrossEntropies.apply(logits, labels, NONE, vocabulary)  # type: ignore[no-untyped-call]
    return terms


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, pad: int = 0, vocabulary: Vocabulary = WHOLE
) -> Tensor:
    """Sum over rows of KL(q || softmax(logits)), computed in fp32: fp32 scalar, in nats.

    q is 1 - smoothing at the label, 0 at `pad`, and smoothing / (V - 2) at every other token, as in the
    published code of s2s-ft. Without smoothing this is the cross entropy.

    Args:
        logits: [N, C], any floating dtype.
        labels: [N] int64, none of them `pad`; rows with `IGNORE` count nothing.
        smoothing: probability spread over the other tokens, in [0, 1).
        pad: the token that gets none.
        vocabulary: which tokens the columns of the logits are.
    """
    spread = NONE
    if smoothing:
        spread = Smoothing(smoothing, (vocabulary.total or logits.shape[1]) - 2, pad)
    terms: Tensor = _CrossEntropies.apply(logits, labels, spread, vocabulary)  # type: ignore[no-untyped-call]
    return terms.sum()


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, smoothing: Smoothing, vocabulary: Vocabulary
    ) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        largest, *sums = torch.empty((3, *labels.shape), dtype=torch.float32, device=logits.device)
        total, linear = sums
        targets = _Targets(labels, logits.shape[1], smoothing, vocabulary.first)
        if vocabulary is not WHOLE:
            for rows in _pieces(logits):
                largest[rows], total[rows] = _normaliser(logits[rows])
                linear[rows] = targets.linear(logits[rows], rows)
            largest, (total, linear) = vocabulary.combine(largest, torch.stack([total, linear]))
        for rows in _pieces(logits):
            piece = logits[rows]
            if vocabulary is not WHOLE:
                softmax = torch.exp(piece.float() - largest[rows, None]) / total[rows, None]
            else:
                most, where = piece.max(dim=1, keepdim=True)
                softmax = torch.softmax(piece, dim=1, dtype=torch.float32)
                # The sum by way of the largest term, whose probability (1/V or more) never underflows.
                largest[rows], total[rows] = most[:, 0], softmax.gather(1, where)[:, 0].reciprocal()
                linear[rows] = targets.linear(piece, rows)
            if gradient is not None:
                targets.subtract(softmax, rows)
                gradient[rows] = softmax
        ctx.save_for_backward(gradient)
        terms: Tensor = largest + total.log() - linear + smoothing.entropy
        return terms.masked_fill(labels == IGNORE, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        scaled = torch.empty_like(gradient)
        for rows in _pieces(gradient):
            # In fp32: a factor rounded to bf16 would scale the whole gradient wrongly.
            scaled[rows] = gradient[rows].float() * grad_output[rows, None]
        return scaled, None, None, None


def _normaliser(piece: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row's logits, and the sum of their exponentials in units of it; fp32 [n]."""
    if piece.shape[1] == 0:
        nothing = torch.zeros(len(piece), device=piece.device)
        return nothing - math.inf, nothing
    logits = piece.float()
    largest = logits.amax(1)
    return largest, torch.exp(logits - largest[:, None]).sum(1)


class _Targets:
    """The distribution q that logits should have, at the columns from token `first` on."""

    def __init__(self, labels: Tensor, columns: int, smoothing: Smoothing, first: int) -> None:
        self._ignored = (labels == IGNORE)[:, None]
        column = labels[:, None] - first
        here = (column >= 0) & (column < columns) & ~self._ignored
        self._smoothing, self._pad = smoothing, smoothing.pad - first
        self._column = column.masked_fill(~here, 0)
        self._at_label = here * (1.0 - smoothing.amount - smoothing.share)
        self._columns = columns

    def linear(self, logits: Tensor, rows: slice) -> Tensor:
        """Sum over the columns of q times the logits, fp32 [n]."""
        if self._columns == 0:
            return torch.zeros(len(logits), device=logits.device)
        found = (logits.gather(1, self._column[rows]).float() * self._at_label[rows])[:, 0]
        if self._smoothing.amount:
            found = found + self._smoothing.share * (logits.float().sum(1) - self._of_pad(logits))
        linear: Tensor = found
        return linear

    def subtract(self, softmax: Tensor, rows: slice) -> None:
        """Take q from the softmax [n, C] in place, and leave 0 in rows that count nothing."""
        if self._columns == 0:
            return
        if self._smoothing.amount:
            softmax -= self._smoothing.share
            if 0 <= self._pad < self._columns:
                softmax[:, self._pad] += self._smoothing.share
        softmax.scatter_add_(1, self._column[rows], -self._at_label[rows])
        softmax.masked_fill_(self._ignored[rows], 0.0)

    def _of_pad(self, logits: Tensor) -> Tensor | float:
        return logits[:, self._pad].float() if 0 <= self._pad < self._columns else 0.0


def _pieces(logits: Tensor) -> Iterator[slice]:
    """Rows of each piece."""
    rows = max(1, PIECE.get(logits.device.type, PIECE["cuda"]) // max(1, logits.shape[1]))
    for start in range(0, logits.shape[0], rows):
        yield slice(start, start + rows)
