"""Training through a narrow format: forward in its values, backward as if nothing had happened."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mainspring.numerics.format import Format
from mainspring.numerics.rounding import Rounding


def straight_through(
    x: Tensor,
    form: Format,
    dim: int = -1,
    rounding: Rounding = "nearest",
    generator: torch.Generator | None = None,
) -> Tensor:
    """`form.quantize(x)` with the gradient of x (Bengio et al. 2013, arXiv 1308.3432, section 4).

    Elements are never clipped by a fixed range in these formats, so that no gradient is held back.
    """
    out: Tensor = _StraightThrough.apply(x, form, dim, rounding, generator)  # type: ignore[no-untyped-call]
    return out


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, form: Format, dim: int, rounding: Rounding, generator: torch.Generator | None
    ) -> Tensor:
        return form.quantize(x, dim, rounding, generator)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        return outputs[0], None, None, None, None
