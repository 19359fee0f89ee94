"""A tensor in a narrow format, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """Bytes of a tensor: the elements' codes, and what each box of them shares."""

    codes: Tensor
    """uint8 [bytes]: `Format.element_bits` for each element, box after box (`numerics.bits`)."""
    scales: Tensor
    """What each box shares: uint8 (exponents) or fp32, [boxes]."""
    shape: torch.Size
    """Of the tensor."""
    dim: int
    """Dimension along which boxes lie."""

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes
