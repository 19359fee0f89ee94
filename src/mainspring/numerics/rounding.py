"""Rounding of non-negative numbers to integers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["nearest", "stochastic", "zero"]
"""To the nearest, ties to even; up with the probability of the fraction; towards zero."""


def round_to_integer(x: Tensor, rounding: Rounding, generator: torch.Generator | None = None) -> Tensor:
    """Round non-negative numbers.

    Stochastic rounding is unbiased: the mean of what it gives is x (Gupta et al. 2015, arXiv 1502.02551,
    section 3).

    Args:
        x: fp32, any shape, >= 0.
        rounding: how.
        generator: of stochastic rounding; None takes torch's own.

    Returns:
        fp32, the shape of x.
    """
    if rounding == "nearest":
        return x.round()
    if rounding == "zero":
        return x.floor()
    chance = torch.rand(x.shape, generator=generator, device=x.device)
    whole = x.floor()
    # x + chance would round in fp32 and go up where it must not.
    return whole + (chance < x - whole)
