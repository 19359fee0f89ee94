"""Microsoft Floating Point: a sign and a few bits of magnitude an element, an exponent a box.

Rouhani et al. 2020, "Pushing the limits of narrow precision inferencing at cloud scale with Microsoft
floating point" (NeurIPS 33). MSFPn has 8 bits of exponent for a box, and a sign and n - 9 bits of magnitude
without a hidden bit for each element. The paper's tie and overflow rules are not given there; here ties go to
even and what rounds up to 2^m becomes 2^m - 1, or with `overflow="bump"` gives its box a larger exponent.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.numerics.exponents import POISONED, flush, largest_exponent, poisoned, scaled, tame
from mainspring.numerics.format import Format
from mainspring.numerics.rounding import Rounding, round_to_integer

BIAS = 127


class Msfp(Format):
    """MSFP11 to MSFP16.

    Exponents run from -126 to 127 (codes 1 to 254); a box of zeros has code 0. An element is
    +-k 2^(E - m + 1), 0 <= k < 2^m, E the exponent of the largest of the box. Of at most 8 bits, these
    products with powers of two are exact in bfloat16.

    Args:
        total_bits: n of MSFPn, 11 to 16.
        box: elements that share an exponent (16 in the publication, which allows up to 128).
        overflow: what becomes of the largest elements where rounding carries them past 2^m - 1.
    """

    scale_bits = 8

    def __init__(
        self, total_bits: int, box: int = 16, overflow: Literal["saturate", "bump"] = "saturate"
    ) -> None:
        if not 11 <= total_bits <= 16:
            raise UsageError(f"MSFP has 11 to 16 bits, not {total_bits}")
        if box < 1:
            raise UsageError(f"a box of MSFP has at least one element, not {box}")
        self.name = f"msfp{total_bits}"
        self.box = box
        self.overflow = overflow
        self.magnitude_bits = total_bits - 9
        self.element_bits = 1 + self.magnitude_bits

    def scales(self, boxes: Tensor) -> Tensor:
        bad = poisoned(boxes)
        boxes = flush(tame(boxes))
        exponent = largest_exponent(boxes)
        if self.overflow == "bump":
            # Whether the largest element rounds up to 2^m, by the rounding that ties go to even in.
            largest = boxes.abs().amax(-1, keepdim=True)
            carried = scaled(largest, self.magnitude_bits - 1 - exponent).round()
            exponent = (exponent + (carried >= 2**self.magnitude_bits)).clamp(max=POISONED - 1 - BIAS)
        code = torch.where((boxes == 0).all(-1, keepdim=True), 0, exponent + BIAS)
        return torch.where(bad, POISONED, code).to(torch.uint8)

    def codes(
        self, boxes: Tensor, scales: Tensor, rounding: Rounding, generator: torch.Generator | None
    ) -> Tensor:
        boxes = flush(tame(boxes))
        steps = scaled(boxes.abs(), self.magnitude_bits - 1 - (scales.int() - BIAS))
        steps = torch.where((scales == 0) | (scales == POISONED), 0, steps)
        size = round_to_integer(steps, rounding, generator).clamp(max=2**self.magnitude_bits - 1)
        codes: Tensor = (size + torch.signbit(boxes) * 2**self.magnitude_bits).to(torch.uint8)
        return codes

    def values(self, codes: Tensor, scales: Tensor) -> Tensor:
        size = (codes & (2**self.magnitude_bits - 1)).float()
        size = scaled(size, scales.int() - BIAS - self.magnitude_bits + 1)
        size = torch.where(scales == POISONED, torch.nan, size)
        signed: Tensor = torch.where(codes >> self.magnitude_bits > 0, -size, size)
        return signed
