"""Integers with a real scale: a row (channel), or a group of neighbours in it, shares one."""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.numerics.format import Format
from mainspring.numerics.rounding import Rounding, round_to_integer


class Integers(Format):
    """Symmetric integers: x is about k scale, |k| <= 2^(bits - 1) - 1, scale = max |x| / (2^(bits - 1) - 1).

    Codes are two's complement in `bits` bits; the most negative one is not used.

    Args:
        bits: 2 to 8.
        group: elements that share a scale; None: whole rows.
    """

    scale_bits = 32

    def __init__(self, bits: int, group: int | None = None) -> None:
        if not 2 <= bits <= 8:
            raise UsageError(f"integers have 2 to 8 bits, not {bits}")
        if group is not None and group < 1:
            raise UsageError(f"a group has at least one element, not {group}")
        self.name = f"int{bits}" + (f"-g{group}" if group else "")
        self.box = group
        self.element_bits = bits
        self.largest = (1 << (bits - 1)) - 1

    def scales(self, boxes: Tensor) -> Tensor:
        scale = boxes.abs().amax(-1, keepdim=True) / self.largest
        return torch.where(boxes.isfinite().all(-1, keepdim=True), scale, torch.nan)

    def codes(
        self, boxes: Tensor, scales: Tensor, rounding: Rounding, generator: torch.Generator | None
    ) -> Tensor:
        steps = torch.where(scales > 0, boxes.abs() / scales, 0.0)
        size = round_to_integer(steps, rounding, generator).clamp(max=self.largest)
        return (size.copysign(boxes).int() & ((1 << self.element_bits) - 1)).to(torch.uint8)

    def values(self, codes: Tensor, scales: Tensor) -> Tensor:
        sign = 1 << (self.element_bits - 1)
        return ((codes.int() ^ sign) - sign).float() * scales
