"""ONNX's types of elements and torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mainspring.errors import UsageError, require

if TYPE_CHECKING:
    from onnx import TensorProto

TYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
    21: torch.uint8,
    22: torch.int8,
    24: torch.float8_e8m0fnu,
    25: torch.uint8,
    26: torch.int8,
}
"""By the number that ONNX gives a type (onnx.proto3, TensorProto.DataType). Integers of four and
two bits (21, 22, 25, 26) are kept in eight."""
NIBBLES = {21: (0, 15), 22: (-8, 7), 25: (0, 3), 26: (-2, 1)}
"""Ranges of integers of four and two bits."""
EIGHT_BITS = {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}
"""8-bit floating point, into which a cast may saturate."""


def onnx_type(number: int, name: str = "") -> torch.dtype:
    """torch's type for ONNX's number of a type.

    Raises:
        UsageError: it has none.
    """
    found = TYPES.get(number)
    if found is None:
        from onnx import TensorProto

        known = {n: TensorProto.DataType.Name(n) for n in TensorProto.DataType.values()}
        where = f"node {name!r}: " if name else ""
        raise UsageError(
            f"{where}elements of type {known.get(number, number)} have no counterpart in torch; cast them "
            "to FLOAT or INT64 in the graph"
        )
    return found


def cast_to(
    x: Tensor, to: int | torch.dtype, *, saturate: bool = True, rounding: str = "up", name: str = ""
) -> Tensor:
    """Cast as ONNX does: towards zero to integers, and into 8-bit floating point to its largest value.

    Args:
        x: any tensor.
        to: ONNX's number of a type, or torch's type.
        saturate: what is too large for 8-bit floating point becomes its largest value, else no number (or
            infinity, where it has that).
        rounding: of powers of two: "up", "down" or "nearest".
        name: of the node, for messages.
    """
    dtype = to if isinstance(to, torch.dtype) else onnx_type(to, name)
    if dtype in EIGHT_BITS:
        wide, top = x.float(), torch.finfo(dtype).max
        if saturate:
            wide = torch.where(wide.isnan(), wide, wide.clamp(-top, top))
        elif dtype == torch.float8_e4m3fn:  # which torch saturates
            beyond = wide.abs() > top + 16  # half of the last step
            wide = torch.where(beyond, torch.nan, wide)
        return wide.to(dtype)
    if dtype == torch.float8_e8m0fnu:
        return _power_of_two(x.float(), rounding).to(dtype)
    if not isinstance(to, torch.dtype) and to in NIBBLES:
        low, high = NIBBLES[to]
        return ((x.to(torch.int64) - low) % (high - low + 1) + low).to(dtype)
    return x.to(dtype)


def _power_of_two(x: Tensor, rounding: str) -> Tensor:
    exponent = torch.log2(x)
    rounded = {"up": torch.ceil, "down": torch.floor}.get(rounding, torch.round)(exponent)
    return torch.exp2(rounded.clamp(-127, 127))


def tensor_of(proto: TensorProto, folder: str = "") -> Tensor:
    """A torch tensor with a copy of an ONNX tensor's values.

    Args:
        proto: the tensor; its values may lie in a file beside the model.
        folder: where such files are.

    Raises:
        UsageError: torch has no such type of elements (text, for one).
    """
    dtype = onnx_type(proto.data_type, proto.name)
    numpy_helper = require("onnx", "onnx").numpy_helper
    return of_array(numpy_helper.to_array(proto, folder), dtype)


def of_array(array: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A torch tensor with a copy of an array, whose type may be one of ml_dtypes'.

    Raises:
        UsageError: it holds text, or numbers that torch has no type for.
    """
    name = array.dtype.name
    if array.dtype.kind in "OUS":
        raise UsageError("torch has no tensors of text; cut the graph behind what reads it")
    if name in NUMPY:
        return torch.from_numpy(np.array(array, order="C"))
    if name not in EXTENDED:
        raise UsageError(f"arrays of {name} have no counterpart in torch; cast them to float32 first")
    target = EXTENDED[name] if dtype is None else dtype
    wide = np.float64 if target.is_floating_point else np.int64
    return torch.from_numpy(np.array(array, dtype=wide, order="C")).to(target)


NUMPY = {
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip
"""Names of numpy's types that torch shares."""
EXTENDED = {
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "float8_e8m0fnu": torch.float8_e8m0fnu,
    "uint4": torch.uint8,
    "int4": torch.int8,
    "uint2": torch.uint8,
    "int2": torch.int8,
}
"""Names of ml_dtypes' types, and what they become."""
