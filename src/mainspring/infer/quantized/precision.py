"""The precisions a model can be run in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from mainspring.errors import ConfigError
from mainspring.infer.quantized.kernels import Kernels
from mainspring.infer.quantized.linear import (
    FormatLinear,
    Int4Linear,
    Int8Linear,
    Int8WeightLinear,
    QuantizedLinear,
)
from mainspring.numerics import FORMATS, Msfp, Mx

Make = Callable[[Tensor, Tensor | None, Kernels], QuantizedLinear]


@dataclass(frozen=True)
class Precision:
    """How the weights of a model's linear layers are stored and multiplied."""

    name: str
    bits: float
    """Of a weight, with its part of a scale."""
    summary: str
    """In words."""
    make: Make | None = None
    """A layer from a weight [N, K] and a bias; None where layers stay as they are, in `dtype`."""
    dtype: torch.dtype = torch.float32
    """Of what is not quantised, and of activations."""


def _formats() -> list[Precision]:
    def make(name: str) -> Make:
        return lambda weight, bias, kernels: FormatLinear.of(weight, bias, FORMATS[name], kernels)

    return [
        Precision(name, form.bits, f"{name}, simulated with exact values in bf16", make(name))
        for name, form in FORMATS.items()
        if isinstance(form, Msfp | Mx)
    ]


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        precision.name: precision
        for precision in (
            Precision("fp32", 32, "as trained"),
            Precision("bf16", 16, "all of it in bf16", dtype=torch.bfloat16),
            Precision("int8", 8, "int8 weights by rows, int8 activations by tokens", Int8Linear.of),
            Precision("int8-weight", 8, "int8 weights by rows, activations as they are", Int8WeightLinear.of),
            Precision("int4", 4.5, "int4 weights by groups of 64", Int4Linear.of),
            *_formats(),
        )
    }
)
"""Every precision that `quantize_model` takes."""


def precision_named(name: str) -> Precision:
    """The precision of that name.

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"no precision is called {name!r}; there are {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
