"""Weights in any number of bits from 16 down to 1, as mixture-of-quantisation training sees them.

Equal parts ("groups") of a matrix, in the order of its elements, share a scale. From 3 bits on steps are
linear, 2^bits of them, over the range of the group. Two bits are ternary, with the threshold 0.7 mean|w| and
the mean of what is beyond it (Li et al. 2016, arXiv 1605.04711, equations 3 to 5); one is the sign times
mean|w| (Rastegari et al. 2016, arXiv 1603.05279, equation 6).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.numerics.rounding import round_to_integer


def in_bits(
    weight: Tensor,
    bits: int,
    *,
    groups: int = 1,
    symmetric: bool = True,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    generator: torch.Generator | None = None,
) -> Tensor:
    """A weight in so many bits an element, in its own dtype; without a gradient.

    Args:
        weight: of any shape.
        bits: 1 to 16.
        groups: equal parts with a scale each.
        symmetric: whether steps are around 0; else over [min, max] (from 3 bits on).
        rounding: of linear steps.
        generator: of stochastic rounding.

    Raises:
        UsageError: bits are out of range, or the elements do not divide into the groups.
    """
    if not 1 <= bits <= 16:
        raise UsageError(f"weights are trained in 1 to 16 bits, not {bits}")
    if groups < 1 or weight.numel() % groups:
        near = max((g for g in range(1, max(groups, 1) + 1) if weight.numel() % g == 0), default=1)
        raise UsageError(
            f"a weight of shape {list(weight.shape)} does not divide into {groups} groups; nearest legal "
            f"number: {near}"
        )
    rows = weight.detach().float().reshape(groups, -1)
    if bits == 1:
        narrow = rows.sign() * rows.abs().mean(1, keepdim=True)
    elif bits == 2:
        narrow = _ternary(rows)
    else:
        narrow = _linear(rows, bits, symmetric, rounding, generator)
    return narrow.view(weight.shape).to(weight.dtype)


def _ternary(rows: Tensor) -> Tensor:
    size = rows.abs()
    kept = size > 0.7 * size.mean(1, keepdim=True)
    mean = (size * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
    ternary: Tensor = rows.sign() * kept * mean
    return ternary


def _linear(
    rows: Tensor,
    bits: int,
    symmetric: bool,
    rounding: Literal["nearest", "stochastic"],
    generator: torch.Generator | None,
) -> Tensor:
    """Steps of 2 max|w| / 2^bits from -2^(bits-1) to 2^(bits-1) - 1; or of (max - min) / 2^bits from 0 to
    2^bits - 1, above min rounded to a step."""
    count = 2**bits
    if symmetric:
        least, low = torch.zeros(len(rows), 1, device=rows.device), -(count // 2)
        step = 2 * rows.abs().amax(1, keepdim=True) / count
    else:
        least, low = rows.amin(1, keepdim=True), 0
        step = (rows.amax(1, keepdim=True) - least) / count
    step = torch.where(step > 0, step, 1.0)
    least = (least / step).round() * step
    steps = ((rows - least) / step).clamp(low, low + count - 1)
    # Rounding is of numbers that are not negative.
    whole = (round_to_integer(steps - low, rounding, generator) + low).clamp(low, low + count - 1)
    narrow: Tensor = whole * step + least
    return narrow
