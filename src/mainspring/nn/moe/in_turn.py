"""Experts one after another, each over its own rows through both of its maps.

Legend: N rows, E experts, D width, F inner width (twice that before a gate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring.nn.config import Activation
from mainspring.nn.feed_forward import apply_activation
from mainspring.nn.linear import FEWEST_ROWS, linear
from mainspring.nn.moe.derivative import differentiate_activation
from mainspring.nn.products import one_at_a_time


@torch.compiler.disable  # type: ignore[untyped-decorator]
def apply_each(*arguments: Any) -> Tensor:
    """The experts one after another: as `mainspring.nn.moe.experts.apply_grouped`.

    A loop of as many turns as there are experts is not for a compiler: it calls this.
    """
    out: Tensor = _OneByOne.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


class _OneByOne(torch.autograd.Function):
    """Experts one after another; of an expert only what is before its activation is kept for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        counts: list[int],
        activation: Activation,
    ) -> Tensor:
        out = torch.empty_like(rows)
        kept = []
        for expert, part in _parts(counts):
            inner = linear(rows[part], up[expert], None if up_bias is None else up_bias[expert])
            active = apply_activation(activation, inner)
            out[part] = linear(active, down[expert], None if down_bias is None else down_bias[expert])
            kept.append(inner)
        ctx.save_for_backward(rows, up, down, *kept)
        ctx.counts, ctx.activation = counts, activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, up, down, *kept = ctx.saved_tensors
        by_rows, by_up, by_up_bias, by_down, by_down_bias, *_ = ctx.needs_input_grad
        d_rows = torch.empty_like(rows) if by_rows else None
        d_up, d_down = (torch.empty_like(w) if by else None for w, by in ((up, by_up), (down, by_down)))
        d_up_bias = up.new_zeros(up.shape[:2]) if by_up_bias else None
        d_down_bias = down.new_zeros(down.shape[:2]) if by_down_bias else None
        for expert, count in enumerate(ctx.counts):
            for d_weight in (d_up, d_down) if count == 0 else ():
                if d_weight is not None:
                    d_weight[expert].zero_()
        for (expert, part), inner in zip(_parts(ctx.counts), kept, strict=True):
            of_out = grad[part]
            if d_down is not None:
                _outer(of_out, apply_activation(ctx.activation, inner), d_down[expert])
            if d_down_bias is not None:
                torch.sum(of_out, 0, out=d_down_bias[expert])
            if d_rows is None and d_up is None and d_up_bias is None:
                continue
            of_inner = differentiate_activation(ctx.activation, inner, _back(of_out, down[expert]))
            if d_up is not None:
                _outer(of_inner, rows[part], d_up[expert])
            if d_up_bias is not None:
                torch.sum(of_inner, 0, out=d_up_bias[expert])
            if d_rows is not None:
                d_rows[part] = _back(of_inner, up[expert])
        return d_rows, d_up, d_up_bias, d_down, d_down_bias, None, None


def _parts(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Experts that have rows, with where these are."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield expert, slice(start, start + count)
        start += count


def _back(grad: Tensor, weight: Tensor) -> Tensor:
    """grad [n, out] weight [out, in]: [n, in]."""
    return linear(grad, weight.t()) if len(grad) >= FEWEST_ROWS else grad @ weight


def _outer(grad: Tensor, x: Tensor, out: Tensor) -> None:
    """grad^T [out, n] x [n, in] into a matrix [out, in]."""
    if one_at_a_time(grad) and len(grad) >= FEWEST_ROWS:
        out.copy_(linear(grad.t(), x.t()))
    else:
        torch.mm(grad.t(), x, out=out)
