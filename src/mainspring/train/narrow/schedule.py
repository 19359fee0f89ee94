"""When a layer's bits fall: a pure function of the step and of what the layer's curvature was.

As DeepSpeed's quantiser has it (commit edaa722, `runtime/quantize.py`): a layer has a number of bits and a
period; at the first step that is the period or later the bits fall by one and the period becomes twice itself
times the factor. With one factor f throughout, fall number k = 0, 1, ... comes at step period (2 f)^k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerBits:
    """Where a layer stands."""

    bits: int
    """Of its weights now."""
    period: int
    """Steps since the beginning at which they fall next."""
    fell: int = 0
    """Step of the last fall (0: the beginning)."""


def factor_of(share: float) -> int:
    """Factor on a period: 1 + floor(4 share), from 1 to 5.

    Args:
        share: the layer's eigenvalue over the largest; what is no number, or 0, counts as 1, the largest.
    """
    if not math.isfinite(share) or share == 0:
        share = 1.0
    return 1 + math.floor(4 * min(max(share, 0.0), 1.0))


def falls(layer: LayerBits, step: int, target: int) -> bool:
    """Whether a layer's bits fall at a step, counted from the beginning of the schedule."""
    return layer.bits > target and step >= layer.period


def advance(layer: LayerBits, step: int, target: int, factor: int = 1) -> LayerBits:
    """The layer at a step; what falls, falls by one bit."""
    if not falls(layer, step, target):
        return layer
    return LayerBits(layer.bits - 1, layer.period * 2 * factor, step)


def mixed_in(layer: LayerBits, step: int, fall: float) -> float:
    """Share r of the weights as they are at a step; 0 where nothing is mixed in."""
    return max(0.0, 1.0 - fall * (step - layer.fell)) if fall else 0.0
