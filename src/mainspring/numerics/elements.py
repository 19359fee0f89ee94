"""Scalar floating-point formats of 4 to 8 bits, as their definition has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mainspring.numerics.exponents import scaled
from mainspring.numerics.rounding import Rounding, round_to_integer


@dataclass(frozen=True)
class FloatElement:
    """Sign, exponent, mantissa, with subnormals (OCP Microscaling Formats 1.0, section 5.3).

    Codes that the definition gives to infinities or NaN are never made: what is too large becomes the largest
    number.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    largest: float
    """Largest finite value."""

    @property
    def bits(self) -> int:
        """Of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is added to an exponent in its code."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest_exponent(self) -> int:
        """Exponent of `largest`."""
        return int(torch.frexp(torch.tensor(self.largest)).exponent) - 1

    def table(self, device: torch.device | str = "cpu") -> Tensor:
        """The value of every code, fp32 [2^bits], by the definition; infinities and NaN where it has them."""
        codes = torch.arange(2**self.bits, device=device)
        mantissa = codes & (2**self.mantissa_bits - 1)
        exponent = (codes >> self.mantissa_bits) & (2**self.exponent_bits - 1)
        normal = (exponent > 0).long()
        significand = mantissa + normal * 2**self.mantissa_bits
        power = torch.clamp(exponent, min=1) - self.bias - self.mantissa_bits
        size = torch.ldexp(significand.float(), power)
        size = torch.where(size > self.largest, torch.nan, size)
        if self.name == "e5m2":
            size = torch.where((exponent == 31) & (mantissa == 0), torch.inf, size)
        signed: Tensor = torch.where(codes >> (self.bits - 1) > 0, -size, size)
        return signed

    def encode(self, x: Tensor, rounding: Rounding, generator: torch.Generator | None = None) -> Tensor:
        """Codes of finite numbers: fp32 -> uint8, of the same shape."""
        size = x.abs()
        exponent = torch.frexp(size).exponent - 1
        exponent = torch.where(size == 0, 1 - self.bias, exponent).clamp(min=1 - self.bias)
        steps = scaled(size, self.mantissa_bits - exponent)
        steps = round_to_integer(steps, rounding, generator).to(torch.int32)
        # Subnormal or not, and also where rounding reaches the next power of two, a code without its sign is
        # the number of steps from 0.
        code = steps + (exponent + self.bias - 1) * 2**self.mantissa_bits
        code = code.clamp(max=self._largest_code)
        codes: Tensor = (code + torch.signbit(x) * 2 ** (self.bits - 1)).to(torch.uint8)
        return codes

    @property
    def _largest_code(self) -> int:
        exponent = self.largest_exponent
        steps = int(self.largest * 2.0 ** (self.mantissa_bits - exponent))
        return steps + ((exponent + self.bias - 1) << self.mantissa_bits)


E5M2 = FloatElement("e5m2", 5, 2, 57344.0)
E4M3 = FloatElement("e4m3", 4, 3, 448.0)
E3M2 = FloatElement("e3m2", 3, 2, 28.0)
E2M3 = FloatElement("e2m3", 2, 3, 7.5)
E2M1 = FloatElement("e2m1", 2, 1, 6.0)
