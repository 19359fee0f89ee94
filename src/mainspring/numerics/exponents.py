"""Exponents that boxes share."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_NORMAL = 2.0**-126
POISONED = 255
"""Code of a box that holds a NaN or an infinity."""


def flush(boxes: Tensor) -> Tensor:
    """fp32 with 0 in place of subnormals, signs kept."""
    return torch.where(boxes.abs() < SMALLEST_NORMAL, torch.zeros_like(boxes).copysign(boxes), boxes)


def largest_exponent(boxes: Tensor) -> Tensor:
    """floor(log2(max |x|)) of each box, int32 [N, 1]; what it is of a box of zeros or with a NaN or an
    infinity says nothing."""
    largest = boxes.abs().amax(-1, keepdim=True)
    return torch.frexp(largest).exponent - 1


def poisoned(boxes: Tensor) -> Tensor:
    """Whether boxes hold a NaN or an infinity, bool [N, 1]."""
    return ~boxes.isfinite().all(-1, keepdim=True)


def tame(boxes: Tensor) -> Tensor:
    """The same with 0 in place of NaN and infinities, so that their codes are something."""
    return torch.nan_to_num(boxes, nan=0.0, posinf=0.0, neginf=0.0)


def scaled(x: Tensor, power: Tensor | int) -> Tensor:
    """x 2^power, in two steps: of a power that is too large for fp32 the product may be not."""
    half = power // 2
    return torch.ldexp(torch.ldexp(x, torch.as_tensor(half)), torch.as_tensor(power - half))
