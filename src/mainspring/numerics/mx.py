"""Microscaling formats of the Open Compute Project: 32 narrow elements that share a power of two.

OCP Microscaling Formats (MX) Specification 1.0 (2023), sections 5 and 6.3; Rouhani et al. 2023, arXiv
2310.10537, algorithm 1: the scale is 2^(floor(log2(max |x|)) - e), e the exponent of the largest number of
the element's format; elements that are then too large become the largest number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.numerics.elements import FloatElement
from mainspring.numerics.exponents import POISONED, flush, largest_exponent, poisoned, scaled, tame
from mainspring.numerics.format import Format
from mainspring.numerics.rounding import Rounding, round_to_integer

BIAS = 127
INTEGER_FRACTION = 6
"""Bits behind the point of MXINT8's elements: -127/64 to 127/64."""


class Mx(Format):
    """MXFP8 (E5M2 or E4M3), MXFP6 (E3M2 or E2M3), MXFP4 (E2M1), MXINT8.

    Scales run from 2^-127 to 2^127 (codes 0 to 254). MXINT8's codes are two's complement; -128 is not used,
    so that formats are symmetric.

    Args:
        name: as `format_named` knows it.
        element: the element's format; None: 8-bit integers.
        box: elements that share a scale (32 in the specification).
    """

    scale_bits = 8

    def __init__(self, name: str, element: FloatElement | None, box: int = 32) -> None:
        if box < 1:
            raise UsageError(f"a block of {name} has at least one element, not {box}")
        self.name = name
        self.element = element
        self.box = box
        self.element_bits = 8 if element is None else element.bits

    def scales(self, boxes: Tensor) -> Tensor:
        bad = poisoned(boxes)
        boxes = flush(tame(boxes))
        exponent = largest_exponent(boxes) - (0 if self.element is None else self.element.largest_exponent)
        code = torch.where((boxes == 0).all(-1, keepdim=True), 0, (exponent + BIAS).clamp(0, POISONED - 1))
        return torch.where(bad, POISONED, code).to(torch.uint8)

    def codes(
        self, boxes: Tensor, scales: Tensor, rounding: Rounding, generator: torch.Generator | None
    ) -> Tensor:
        boxes = scaled(flush(tame(boxes)), BIAS - scales.int())
        if self.element is not None:
            return self.element.encode(boxes, rounding, generator)
        size = round_to_integer(boxes.abs() * 2**INTEGER_FRACTION, rounding, generator).clamp(max=127)
        return size.copysign(boxes).to(torch.int8).view(torch.uint8)

    def values(self, codes: Tensor, scales: Tensor) -> Tensor:
        if self.element is None:
            values = codes.view(torch.int8).float() / 2**INTEGER_FRACTION
        else:
            values = self.element.table(codes.device)[codes.int()]
        return torch.where(scales == POISONED, torch.nan, scaled(values, scales.int() - BIAS))
