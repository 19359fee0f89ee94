"""Quantised integers in and out of floating point: QDQ pairs and operators on integers.

Rounding passes gradients straight through, so that a graph with QDQ pairs can be trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, standard
from mainspring.models.onnx.operators.linear import conv
from mainspring.models.onnx.types import EIGHT_BITS, NIBBLES, TYPES, cast_to


class _Round(torch.autograd.Function):
    """Round to even; its derivative is taken as 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _along(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point, shaped as x needs it: one, one for each slice of an axis, or one for a block."""
    if parameter.ndim == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    axis = axis % x.ndim
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if n == axis else 1 for n in range(x.ndim)])


def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """round(x / scale) + zero, saturated to the type of zero."""
    number = call.get("output_dtype", 0)
    axis, block = call.get("axis", 1), call.get("block_size", 0)
    dtype = TYPES[number] if number else torch.uint8 if zero is None else zero.dtype
    divided = x.float() / _along(scale.float(), x, axis, block)
    if dtype in EIGHT_BITS:
        return cast_to(divided, dtype, saturate=bool(call.get("saturate", 1)))
    offset = 0 if zero is None else _along(zero.float(), x, axis, block)
    low, high = NIBBLES.get(number) or (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return (torch.round(divided) + offset).clamp(low, high).to(dtype)


def dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero) scale."""
    axis, block = call.get("axis", 1), call.get("block_size", 0)
    number = call.get("output_dtype", 0)
    wide = x.float() if x.dtype != torch.int32 else x.double()
    if zero is not None:
        wide = wide - _along(zero.to(wide.dtype), x, axis, block)
    made = wide * _along(scale.float(), x, axis, block)
    return made.to(TYPES[number] if number else scale.dtype)


def dynamic_quantize(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8 by the tensor's own range: the integers, their scale, their zero point."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(-low / scale).clamp(0, 255)
    return (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """x after quantising and back, with gradients straight through inside the range."""
    rounded: Tensor = _Round.apply(x / scale)  # type: ignore[no-untyped-call]
    return ((rounded + zero).clamp(low, high) - zero) * scale


def qlinear_matmul(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """Product of quantised matrices, quantised."""
    product = (a.double() - _column(a_zero)) @ (b.double() - b_zero.double())
    wide = product * (_column(a_scale) * b_scale.double() / y_scale.double())
    return _saturated(wide, y_zero)


def _column(x: Tensor) -> Tensor:
    return x.double()[..., None] if x.ndim == 1 and x.numel() > 1 else x.double()


def qlinear_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolution of quantised tensors, quantised."""
    rows = [-1, *[1] * (weight.ndim - 1)]
    w = weight.double() - w_zero.double().reshape(rows if w_zero.numel() > 1 else [])
    made = conv(call, x.double() - x_zero.double(), w, None if bias is None else bias.double())
    columns = [1, -1, *[1] * (x.ndim - 2)]
    scale = x_scale.double() * w_scale.double().reshape(columns if w_scale.numel() > 1 else [])
    return _saturated(made * scale / y_scale.double(), y_zero)


def _saturated(wide: Tensor, zero: Tensor) -> Tensor:
    if zero.dtype in EIGHT_BITS:
        return cast_to(wide, zero.dtype)
    limits = torch.iinfo(zero.dtype)
    return (torch.round(wide) + zero.double()).clamp(limits.min, limits.max).to(zero.dtype)


QUANTIZATION: Table = standard(
    {
        ("DequantizeLinear", 10): dequantize_linear,
        ("DynamicQuantizeLinear", 11): dynamic_quantize,
        ("QLinearConv", 10): qlinear_conv,
        ("QLinearMatMul", 10): qlinear_matmul,
        ("QuantizeLinear", 10): quantize_linear,
    }
)
