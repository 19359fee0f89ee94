"""Tokens to experts and back: the two ends between which a strategy may move rows to other ranks.

One process gathers rows and adds them up again. Expert parallelism replaces `Local` by an exchange over
ranks; the layer between works on rows sorted by expert and does not know where they come from. No tensor of
S x E x C elements is made (Lepikhin et al. 2020 dispatch by such an einsum).

Legend: S tokens, N rows (choices that are carried out), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring.nn.moe.routing import Routing


class Dispatched(NamedTuple):
    """Rows where their experts are."""

    rows: Tensor
    """[M, D], sorted by the experts that this process has."""
    counts: list[int]
    """Rows of each of them."""
    combine: Callable[[Tensor], Tensor]
    """Takes the experts' outputs of those rows [M, D], and gives what they add up to by token, each times its
    weight: [S, D]; 0 where there is none."""


class Exchange(Protocol):
    """How rows reach the experts that this process has, and come back."""

    def dispatch(self, x: Tensor, routing: Routing) -> Dispatched:
        """Bring tokens x [S, D] to their experts."""
        ...


class Local:
    """All experts are in this process."""

    def dispatch(self, x: Tensor, routing: Routing) -> Dispatched:
        """Gather rows of x [S, D], and later add them up."""

        def combine(rows: Tensor) -> Tensor:
            return add_rows(rows, routing.weight, routing.token, routing.tokens)

        return Dispatched(gather_rows(x, routing.token), routing.counts.tolist(), combine)


def gather_rows(x: Tensor, token: Tensor) -> Tensor:
    """Rows `token` [N] of x [S, D]: [N, D]."""
    rows: Tensor = _Gather.apply(x, token)  # type: ignore[no-untyped-call]
    return rows


def add_rows(rows: Tensor, weight: Tensor, token: Tensor, tokens: int) -> Tensor:
    """Sum of weight * row by token, in fp32 and rounded once: [tokens, D] in the rows' dtype.

    Args:
        rows: [N, D].
        weight: [N], any floating dtype.
        token: of each row, int64 [N].
        tokens: S.
    """
    total: Tensor = _Add.apply(rows, weight, token, tokens)  # type: ignore[no-untyped-call]
    return total


def _sum_by_token(rows: Tensor, token: Tensor, tokens: int, weight: Tensor | None) -> Tensor:
    """Rows, times a weight, added up by token in the rows' order: the same on every run, unlike atomics."""
    if len(rows) == 0:
        return rows.new_zeros(tokens, rows.shape[1])
    order = token.argsort(stable=True)
    counts = torch.bincount(token, minlength=tokens)
    weights = None if weight is None else weight[order].to(rows.dtype)
    starts = counts.cumsum(0) - counts
    return F.embedding_bag(order, rows, starts, mode="sum", per_sample_weights=weights)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor) -> Tensor:
        ctx.save_for_backward(token)
        ctx.tokens = x.shape[0]
        return x.index_select(0, token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (token,) = ctx.saved_tensors
        return _sum_by_token(grad.contiguous(), token, ctx.tokens, None), None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, token: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(rows, weight, token)
        return _sum_by_token(rows, token, tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, weight, token = ctx.saved_tensors
        by_row = grad.index_select(0, token)
        by_weight = torch.linalg.vecdot(by_row.float(), rows.float()).to(weight.dtype)
        return by_row.mul_(weight.to(by_row.dtype)[:, None]), by_weight, None, None
