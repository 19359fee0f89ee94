"""The experts of a layer: feed-forwards whose weights are stacked, applied to rows sorted by expert.

On CPU the experts come one after another, each over its own rows through both of its maps, so that what is
between them stays in the cache and fp32 products go through oneDNN (`nn.linear`). Elsewhere, and for few rows
an expert, `torch.nn.functional.grouped_mm` does all experts in one call.

Legend: N rows, E experts, D width, F inner width (twice that before a gate).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mainspring.nn.config import Activation, TransformerConfig
from mainspring.nn.feed_forward import apply_activation
from mainspring.nn.linear import FEWEST_ROWS, linear
from mainspring.nn.moe.derivative import differentiate_activation
from mainspring.nn.peers import ALONE, Along, Peers

SMALLEST = 1 << 19
"""Multiplications of an expert in one map, on average, from which going one by one is worth it."""


class ExpertMaps(nn.Module):
    """A linear map for each expert: weight [E, out, in], bias [E * out] (expert after expert), or none.

    The bias is one vector, so that what holds of biases (start at 0, no decay) holds of it.
    """

    expert_dim: ClassVar[int] = 0
    """Dimension of weight and bias that is cut where experts are spread over ranks."""

    def __init__(self, experts: int, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(experts * outputs)) if bias else None

    @property
    def biases(self) -> Tensor | None:
        """[E, out], or none."""
        return None if self.bias is None else self.bias.view(self.weight.shape[0], -1)


class Experts(nn.Module):
    """E feed-forwards; with a gate, the rows of an expert's `up` are ordered [d_ff, (gate, value)]."""

    def __init__(self, config: TransformerConfig, count: int) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.d_ff = config.d_ff
        self.activation = config.activation
        inner = config.d_ff * (2 if config.gated else 1)
        self.up = ExpertMaps(count, config.d_model, inner, config.bias)
        self.down = ExpertMaps(count, config.d_ff, config.d_model, config.bias)

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By columns of every expert's inner width; biases stay whole."""
        return {"up.weight": Along(1, self.d_ff, "d_ff"), "down.weight": Along(2, self.d_ff, "d_ff")}

    def forward(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Apply expert e to its rows: [N, D] -> [N, D].

        Args:
            rows: sorted by expert.
            counts: rows of each expert; they add up to N.
        """
        weights: list[Any] = [self.up.weight, self._up_biases(), self.down.weight, self._down_biases()]
        kind = rows.device.type
        if torch.is_autocast_enabled(kind):
            lower = torch.get_autocast_dtype(kind)
            rows = rows.to(lower)
            weights = [w if w is None else w.to(lower) for w in weights]
        apply: Callable[..., Tensor] = apply_each if one_by_one(rows, self.up.weight) else apply_grouped
        return apply(rows, *weights, list(counts), self.activation)

    def _up_biases(self) -> Tensor | None:
        """[E, out], of the part of the inner width that is here, or none."""
        if self.up.biases is None:
            return None
        (shared,) = self.peers.share(self.up.biases)
        return self.peers.part(shared, 1)

    def _down_biases(self) -> Tensor | None:
        return None if self.down.biases is None else self.peers.once(self.down.biases)


def one_by_one(rows: Tensor, up: Tensor) -> bool:
    """Whether experts are to come one after another, rather than all in one grouped product."""
    # A compiler knows grouped products of bf16 only.
    compiled = torch.compiler.is_compiling() and rows.dtype != torch.bfloat16
    if compiled or not _aligned(up):
        return True
    work = rows.shape[0] * up.shape[1] * up.shape[2]
    return rows.device.type == "cpu" and work >= SMALLEST * up.shape[0]


def _aligned(up: Tensor) -> bool:
    """Whether rows of both maps begin at multiples of 16 bytes, which grouped products need."""
    return all(size * up.element_size() % 32 == 0 for size in up.shape[1:])


def apply_grouped(
    rows: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    counts: list[int],
    activation: Activation,
) -> Tensor:
    """The experts by grouped products: as `Experts.forward`, with its weights."""
    number = torch.tensor(counts, device=rows.device)
    ends = number.cumsum(0).to(torch.int32)

    def apply_map(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.grouped_mm(x, weight.transpose(1, 2), offs=ends)
        return y if bias is None else y + bias.repeat_interleave(number, 0, output_size=len(x))

    out = apply_map(apply_activation(activation, apply_map(rows, up, up_bias)), down, down_bias)
    return _Contiguous.apply(out)  # type: ignore[no-untyped-call, no-any-return]


class _Contiguous(torch.autograd.Function):
    """Grouped products want contiguous gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def apply_each(*arguments: Any) -> Tensor:
    """The experts one after another: as `apply_grouped`.

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
    if grad.dtype == torch.float32 and len(grad) >= FEWEST_ROWS:
        out.copy_(linear(grad.t(), x.t()))
    else:
        torch.mm(grad.t(), x, out=out)
