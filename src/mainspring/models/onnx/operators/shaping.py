"""Operators that change shapes and types, and make tensors of shapes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.models.onnx.operators.call import Call, Table, Value, given, ints, standard
from mainspring.models.onnx.types import cast_to, onnx_type


def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Reshape; 0 keeps a size unless allowzero."""
    sizes = ints(shape) or []
    if not call.get("allowzero", 0):
        sizes = [x.shape[n] if size == 0 else size for n, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(call: Call, x: Tensor) -> Tensor:
    """To two axes, parted at `axis`."""
    axis = call.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(call: Call, x: Tensor) -> Tensor:
    """Permute axes; without perm, reverse them."""
    return x.permute(call.get("perm") or list(range(x.ndim))[::-1])


def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Drop axes of size 1."""
    chosen = given(call, "axes", axes)
    if chosen is None:
        return x.squeeze()
    for axis in sorted((a % x.ndim for a in chosen), reverse=True):
        x = x.squeeze(axis)
    return x


def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Add axes of size 1."""
    chosen = given(call, "axes", axes) or []
    for axis in sorted(a % (x.ndim + len(chosen)) for a in chosen):
        x = x.unsqueeze(axis)
    return x


def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast to a shape, in both directions."""
    wanted = ints(shape) or []
    old = [1] * (len(wanted) - x.ndim) + list(x.shape)
    new = [1] * (x.ndim - len(wanted)) + wanted
    return x.expand([n if o == 1 else o for o, n in zip(old, new, strict=True)])


def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(ints(repeats) or [1])


def concat(call: Call, *inputs: Tensor) -> Tensor:
    """Join along an axis."""
    return torch.cat(inputs, dim=call.get("axis", 1))


def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Cut along an axis: into given sizes, or as many equal parts as there are outputs."""
    axis = call.get("axis", 0)
    given_sizes = given(call, "split", sizes)
    if given_sizes is None:
        count = call.get("num_outputs") or len(call.outputs)
        size = -(-x.shape[axis] // count)
        given_sizes = [min(size, max(x.shape[axis] - size * n, 0)) for n in range(count)]
    return torch.split(x, given_sizes, dim=axis)


def shape_of(call: Call, x: Tensor) -> Tensor:
    """The sizes of some axes, int64."""
    return torch.tensor(
        list(x.shape)[slice(call.get("start", 0), call.get("end"))], dtype=torch.int64, device=x.device
    )


def size_of(call: Call, x: Tensor) -> Tensor:
    """Number of elements, int64 []."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def constant(call: Call) -> Value:
    """A value that is written into the node."""
    if "value" in call.attributes:
        return call.attributes["value"]
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for key in (name, f"{name}s"):
            if key in call.attributes:
                return torch.tensor(call.attributes[key], dtype=dtype)
    raise UsageError(
        f"node {call.name!r}: a Constant of {few_names(call)}; numbers and tensors of numbers are supported"
    )


def few_names(call: Call) -> str:
    """The names of a node's attributes."""
    return ", ".join(call.attributes) or "no value"


def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """A tensor with the same value everywhere."""
    value: Tensor | None = call.get("value")
    sizes = ints(shape) or []
    if value is None:
        return torch.zeros(sizes, device=shape.device)
    return value.to(shape.device).reshape(()).expand(sizes).clone()


def range_of(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """start, start + delta, ... below limit."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def eye_like(call: Call, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    dtype = onnx_type(call.attributes["dtype"]) if "dtype" in call.attributes else x.dtype
    return torch.diag_embed(
        torch.ones(max(*x.shape, 1) + abs(call.get("k", 0)), dtype=torch.float32), offset=call.get("k", 0)
    )[: x.shape[0], : x.shape[1]].to(dtype=dtype, device=x.device)


def triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or lower triangle, else 0."""
    diagonal = int(k) if k is not None else 0
    return torch.triu(x, diagonal) if call.get("upper", 1) else torch.tril(x, diagonal)


def cast(call: Call, x: Tensor) -> Tensor:
    """To another type."""
    return _cast(call, x, call.attributes["to"])


def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    """To the type of another tensor."""
    return _cast(call, x, call.get("to", like.dtype))


def _cast(call: Call, x: Tensor, to: int | torch.dtype) -> Tensor:
    saturate, rounding = bool(call.get("saturate", 1)), call.get("round_mode", "up")
    return cast_to(x, to, saturate=saturate, rounding=rounding, name=call.name)


def bit_cast(call: Call, x: Tensor) -> Tensor:
    """The same bits as another type."""
    return x.view(onnx_type(call.attributes["to"]))


def identity(call: Call, x: Any) -> Any:
    """The input."""
    return x


def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Channels to blocks of pixels."""
    n, c, h, w = x.shape
    b = call.attributes["blocksize"]
    if call.get("mode", "DCR") == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, h * b, w * b)


def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Blocks of pixels to channels."""
    n, c, h, w = x.shape
    b = call.attributes["blocksize"]
    cut = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 1, 3, 5, 2, 4) if call.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return cut.permute(order).reshape(n, c * b * b, h // b, w // b)


SHAPING: Table = standard(
    {
        ("BitCast", 26): bit_cast,
        ("Cast", 6): cast,
        ("CastLike", 15): cast_like,
        ("Concat", 4): concat,
        ("Constant", 1): constant,
        ("ConstantOfShape", 9): constant_of_shape,
        ("DepthToSpace", 1): depth_to_space,
        ("Expand", 8): expand,
        ("EyeLike", 9): eye_like,
        ("Flatten", 1): flatten,
        ("Identity", 1): identity,
        ("Range", 11): range_of,
        ("Reshape", 5): reshape,
        ("Shape", 1): shape_of,
        ("Size", 1): size_of,
        ("SpaceToDepth", 1): space_to_depth,
        ("Split", 2): split,
        ("Squeeze", 1): squeeze,
        ("Tile", 6): tile,
        ("Transpose", 1): transpose,
        ("Trilu", 14): triangle,
        ("Unsqueeze", 1): unsqueeze,
    }
)
