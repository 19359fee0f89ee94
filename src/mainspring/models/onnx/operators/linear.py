"""Products with matrices, and convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, standard

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Matrix product of the last two axes."""
    return torch.matmul(a, b)


def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha a b + beta c, with a and b perhaps transposed."""
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    product = a @ b
    product = product if alpha == 1 else (alpha * product).to(product.dtype)
    if c is None:
        return product
    return product + (c if beta == 1 else (beta * c).to(c.dtype))


def einsum(call: Call, *inputs: Tensor) -> Tensor:
    """Einstein's sum."""
    return torch.einsum(call.attributes["equation"].replace(" ", ""), *inputs)


def spatial(call: Call, name: str, dims: int, default: int = 1) -> list[int]:
    """An attribute with a number for each spatial axis."""
    return list(call.get(name) or [default] * dims)


def pads_of(
    call: Call, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Elements to add before and after each spatial axis."""
    dims, auto = len(sizes), call.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = spatial(call, "pads", 2 * dims, 0)
        return pads[:dims], pads[dims:]
    if auto == "VALID":
        return [0] * dims, [0] * dims
    totals = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def interleave(before: list[int], after: list[int]) -> list[int]:
    """Pads in torch's order: the last axis first."""
    return [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]


def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution over one to three spatial axes."""
    dims = x.ndim - 2
    strides, dilations = spatial(call, "strides", dims), spatial(call, "dilations", dims)
    before, after = pads_of(call, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations)
    padding = before
    if before != after:
        x, padding = F.pad(x, interleave(before, after)), [0] * dims
    return CONVOLUTIONS[dims](
        x, weight, bias, stride=strides, padding=padding, dilation=dilations, groups=call.get("group", 1)
    )


def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution over one to three spatial axes."""
    dims = x.ndim - 2
    strides, dilations = spatial(call, "strides", dims), spatial(call, "dilations", dims)
    extra, kernel = spatial(call, "output_padding", dims, 0), list(weight.shape[2:])
    sizes = list(x.shape[2:])
    full = [
        s * (size - 1) + e + (k - 1) * d + 1
        for size, s, e, k, d in zip(sizes, strides, extra, kernel, dilations, strict=True)
    ]
    auto, wanted = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * s for size, s in zip(sizes, strides, strict=True)]
    if wanted is None:
        pads = spatial(call, "pads", 2 * dims, 0)
        before, after = pads[:dims], pads[dims:]
    else:
        totals = [whole - want for whole, want in zip(full, wanted[-dims:], strict=True)]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
    made = TRANSPOSED[dims](x, weight, None, stride=strides, dilation=dilations, groups=call.get("group", 1))
    made = F.pad(made, interleave([-b for b in before], [e - a for e, a in zip(extra, after, strict=True)]))
    return made if bias is None else made + bias.reshape(-1, *[1] * dims)


def matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Product of 8-bit integers, int32."""
    wide_a = a.to(torch.int32) - _row_zero(a_zero, a)
    wide_b = b.to(torch.int32) - (0 if b_zero is None else b_zero.to(torch.int32))
    return torch.matmul(wide_a, wide_b)


def _row_zero(zero: Tensor | None, a: Tensor) -> Tensor | int:
    if zero is None:
        return 0
    return zero.to(torch.int32)[..., None] if zero.ndim == 1 and zero.numel() > 1 else zero.to(torch.int32)


def conv_integer(
    call: Call, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """Convolution of 8-bit integers, int32 (computed in fp64, which is exact)."""
    wide = x.double() - (0 if x_zero is None else x_zero.double())
    w = weight.double()
    if w_zero is not None:
        w = w - w_zero.double().reshape(-1, *[1] * (w.ndim - 1))
    return conv(call, wide, w).to(torch.int32)


def col2im(call: Call, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """Add up columns of blocks in an image, the transpose of taking them out."""
    sizes, kernel = [int(v) for v in image.tolist()], [int(v) for v in block.tolist()]
    dims = len(sizes)
    strides, dilations = spatial(call, "strides", dims), spatial(call, "dilations", dims)
    pads = spatial(call, "pads", 2 * dims, 0)
    padded = [size + pads[n] + pads[n + dims] for n, size in enumerate(sizes)]
    count = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, s, d in zip(padded, kernel, strides, dilations, strict=True)
    ]
    place = torch.zeros([1] * (2 * dims), dtype=torch.int64, device=x.device)
    for n in range(dims):
        inside = torch.arange(kernel[n], device=x.device) * dilations[n]
        start = torch.arange(count[n], device=x.device) * strides[n]
        grid = inside[:, None] + start  # [kernel, count]
        shape = [1] * (2 * dims)
        shape[n], shape[n + dims] = kernel[n], count[n]
        place = place * padded[n] + grid.reshape(shape)
    batch = x.shape[0]
    channels = x.shape[1] // math.prod(kernel)
    flat = x.reshape(batch, channels, -1)
    made = flat.new_zeros(batch, channels, math.prod(padded))
    made = made.scatter_add(2, place.reshape(1, 1, -1).expand(batch, channels, -1), flat)
    made = made.reshape(batch, channels, *padded)
    return F.pad(made, interleave([-p for p in pads[:dims]], [-p for p in pads[dims:]]))


def det(call: Call, x: Tensor) -> Tensor:
    """Determinants of square matrices."""
    found: Tensor = torch.linalg.det(x)
    return found


LINEAR: Table = standard(
    {
        ("Col2Im", 18): col2im,
        ("Conv", 1): conv,
        ("ConvInteger", 10): conv_integer,
        ("ConvTranspose", 1): conv_transpose,
        ("Det", 11): det,
        ("Einsum", 12): einsum,
        ("Gemm", 7): gemm,
        ("MatMul", 1): matmul,
        ("MatMulInteger", 10): matmul_integer,
    }
)
