"""The experts of a layer: feed-forwards whose weights are stacked, applied to rows sorted by expert.

On CPU the experts come one after another, each over its own rows through both of its maps, so that what is
between them stays in the cache and fp32 products go through oneDNN (`nn.linear`). Elsewhere, and for few rows
an expert, `torch.nn.functional.grouped_mm` does all experts in one call.

Legend: N rows, E experts, D width, F inner width (twice that before a gate).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.nn.config import Activation, TransformerConfig
from mainspring.nn.feed_forward import apply_activation
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
        apply: Callable[..., Tensor] = apply_grouped
        if one_by_one(rows, self.up.weight):
            # Imported by who needs it: a function that no compiler enters costs the import of the compiler.
            from mainspring.nn.moe.in_turn import apply_each

            apply = apply_each
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
    # Grouped products have no backward of no rows at all: a rank whose experts no token chose.
    if compiled or not _aligned(up) or rows.shape[0] == 0:
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
