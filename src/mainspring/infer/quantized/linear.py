"""Linear layers with weights in a narrow format, behind one module API.

Each layer holds its weight in the bytes in which it is stored; `weight` reads them back in fp32, for what
needs a matrix and not a product.

Legend: N outputs, K inputs, P inputs filled up to blocks of 64, B = P / 64 blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.errors import WeightsError
from mainspring.infer.quantized.integers import (
    BLOCK,
    check_group,
    fill,
    pack_int4,
    padded,
    round_to_int4,
    round_to_int8,
)
from mainspring.infer.quantized.kernels import ACTIVATIONS, FEW_TOKENS, PORTABLE, Kernels, int4_weight
from mainspring.nn.linear import LinearMap, linear
from mainspring.numerics import Format


class QuantizedLinear(nn.Module, LinearMap, ABC):
    """x weight^T + bias with a weight of `out_features` rows and `in_features` columns in a narrow format."""

    values: Tensor
    """The weight's codes, in the layout of the format."""
    scales: Tensor
    """What rows or groups of codes are multiplied by."""
    bias: Tensor | None
    precision: str
    """Its name in `PRECISIONS`."""

    def __init__(
        self, values: Tensor, scales: Tensor, bias: Tensor | None, in_features: int, kernels: Kernels
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, values.shape[0]
        self.kernels = kernels
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach())

    @abstractmethod
    def multiply(self, x: Tensor, bias: Tensor | None, activation: str | None, rows: int | None) -> Tensor:
        """x [..., K], bias [rows] -> [..., rows], with the first `rows` rows of the weight (None: all)."""

    @abstractmethod
    def read_rows(self, rows: Tensor | slice) -> Tensor:
        """Rows of the weight in fp32: int64 [...] -> [..., K]."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N]."""
        return self.multiply(x, self.bias, None, None)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `LinearMap.product`."""
        return self.multiply(x, bias, None, None)

    def activated(self, x: Tensor, activation: str) -> Tensor | None:
        """See `LinearMap.activated`."""
        return self.multiply(x, self.bias, activation, None) if activation in ACTIVATIONS else None

    @property
    def weight(self) -> Tensor:
        """The weight in fp32, [N, K], made anew each time."""
        return self.read_rows(slice(None))

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and bias."""
        return sum(t.nbytes for t in (self.values, self.scales, self.bias) if t is not None)

    def extra_repr(self) -> str:
        """Shape and kernels."""
        return f"{self.in_features}, {self.out_features}, {self.kernels.name}"


class Int8Linear(QuantizedLinear):
    """Weights int8 with a scale a row, activations rounded to int8 token by token (LLM.int8's vector-wise
    scheme without outliers, Dettmers et al. 2022, arXiv 2208.07339, section 3.1): products of integers."""

    precision = "int8"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, kernels: Kernels) -> Self:
        """Round a weight [N, K]."""
        values, scales = round_to_int8(weight)
        return cls(values, scales, bias, weight.shape[1], kernels)

    @classmethod
    def from_integers(cls, values: Tensor, scales: Tensor, bias: Tensor | None, kernels: Kernels) -> Self:
        """Take integers int8 [N, K] of -127 to 127 and scales [N] or [N, 1] as they are."""
        scales = scales[:, None] if scales.ndim == 1 else scales
        _check_integers(values, scales, 127, 1)
        return cls(fill(values).contiguous(), scales.float().reshape(-1), bias, values.shape[1], kernels)

    def multiply(self, x: Tensor, bias: Tensor | None, activation: str | None, rows: int | None) -> Tensor:
        """See `QuantizedLinear.multiply`."""
        return self.kernels.int8(x, self.values[:rows], self.scales[:rows], bias, activation)

    def read_rows(self, rows: Tensor | slice) -> Tensor:
        """See `QuantizedLinear.read_rows`."""
        return self.values[rows][..., : self.in_features].float() * self.scales[rows][..., None]


class Int8WeightLinear(Int8Linear):
    """Weights int8 with a scale a row; activations stay as they are."""

    precision = "int8-weight"

    def multiply(self, x: Tensor, bias: Tensor | None, activation: str | None, rows: int | None) -> Tensor:
        """See `QuantizedLinear.multiply`."""
        flat = x.reshape(-1, x.shape[-1])
        values, scales = self.values[:rows], self.scales[:rows]
        if len(flat) <= FEW_TOKENS and x.device.type == "cpu":  # its fp32 kernel is slower than widening
            narrow = fill(flat).bfloat16()
            out = torch._weight_int8pack_mm(narrow, values, scales.bfloat16()).to(x.dtype)
        else:
            weight = values[:, : self.in_features].to(x.dtype)
            out = linear(flat, weight) * scales.to(x.dtype)
        out = out if bias is None else out + bias
        out = out if activation is None else ACTIVATIONS[activation](out)
        return out.view(*x.shape[:-1], out.shape[-1])


class Int4Linear(QuantizedLinear):
    """Weights int4 with a scale for each group of columns."""

    precision = "int4"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, kernels: Kernels, group: int = BLOCK) -> Self:
        """Round a weight [N, K]."""
        values, scales = round_to_int4(weight, group)
        return cls(values, scales, bias, weight.shape[1], kernels)

    @classmethod
    def from_integers(
        cls, values: Tensor, scales: Tensor, bias: Tensor | None, kernels: Kernels, group: int | None = BLOCK
    ) -> Self:
        """Take integers int8 [N, K] of -8 to 7 as they are.

        Scales are [N, ceil(K / group)], or of whole rows (group None) [N] or [N, 1].
        """
        columns = values.shape[1]
        if group is None:
            group = padded(columns)
        check_group(group)
        scales = scales[:, None] if scales.ndim == 1 else scales
        _check_integers(values, scales, 7, -(-columns // group))
        spread = scales.float().repeat_interleave(group // BLOCK, 1)[:, : padded(columns) // BLOCK]
        return cls(pack_int4(fill(values)), spread.contiguous(), bias, columns, kernels)

    def multiply(self, x: Tensor, bias: Tensor | None, activation: str | None, rows: int | None) -> Tensor:
        """See `QuantizedLinear.multiply`."""
        return self.kernels.int4(x, self.values[:rows], self.scales[:rows], bias, activation)

    def read_rows(self, rows: Tensor | slice) -> Tensor:
        """See `QuantizedLinear.read_rows`."""
        values, scales = self.values[rows], self.scales[rows]
        flat = int4_weight(values.reshape(-1, values.shape[-1]), scales.reshape(-1, scales.shape[-1]))
        return flat.view(*values.shape[:-1], -1)[..., : self.in_features]


class FormatLinear(QuantizedLinear):
    """A format of `numerics`, simulated: values in bf16, which holds them exactly, and products in bf16 or
    fp32, whose sums are rounded as fp32's (the hardware's order of sums is `npu`'s business)."""

    form: Format

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, form: Format, kernels: Kernels = PORTABLE) -> Self:
        """Round a weight [N, K] along its rows; activations are rounded in the same format."""
        exact = form.quantize(weight.detach().float())
        one = torch.ones(1, device=weight.device)
        layer = cls(exact.bfloat16(), one, bias, weight.shape[1], kernels)
        if not exact.is_meta and not torch.equal(layer.values.float().nan_to_num(), exact.nan_to_num()):
            raise WeightsError(f"bf16 does not hold the values of {form.name} exactly")
        layer.form, layer.precision = form, form.name
        return layer

    def multiply(self, x: Tensor, bias: Tensor | None, activation: str | None, rows: int | None) -> Tensor:
        """See `QuantizedLinear.multiply`."""
        out = F.linear(self.form.quantize(x).float(), self.values[:rows].float(), bias)
        out = out if activation is None else ACTIVATIONS[activation](out)
        return out.to(x.dtype)

    def read_rows(self, rows: Tensor | slice) -> Tensor:
        """See `QuantizedLinear.read_rows`."""
        return self.values[rows].float()


def _check_integers(values: Tensor, scales: Tensor, largest: int, groups: int) -> None:
    if values.dtype != torch.int8 or values.ndim != 2:
        raise WeightsError(f"integers must be int8 [N, K], not {values.dtype} {list(values.shape)}")
    if scales.shape != (len(values), groups):
        raise WeightsError(
            f"scales of shape {list(scales.shape)} for integers {list(values.shape)}; give "
            f"{[len(values), groups]}"
        )
    low, high = (int(t) for t in values.aminmax())
    lowest = -largest - (largest < 127)  # -128 has no opposite, which exact kernels need
    if low < lowest or high > largest:
        raise WeightsError(f"integers from {low} to {high}; this format has {lowest} to {largest}")
