"""The kernels of the compiled tier as `Kernels`, and as one operator that torch.compile can see."""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from mainspring.infer.quantized.integers import BLOCK
from mainspring.infer.quantized.kernels import PORTABLE, Kernels
from mainspring.infer.quantized.native.build import Instructions, load

_CODES: Mapping[str | None, int] = {None: 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


class LinearStruct(ctypes.Structure):
    """`Linear` of products.h."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("filled", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("activation", ctypes.c_int32),
    )


def describe(
    values: Tensor, scales: Tensor, bias: Tensor | None, inputs: int, activation: str | None = None
) -> LinearStruct:
    """A layer as the library takes it; the tensors must outlive it."""
    bits = 8 if values.dtype == torch.int8 else 4
    return LinearStruct(
        values.data_ptr(),
        scales.data_ptr(),
        None if bias is None else bias.data_ptr(),
        values.shape[0],
        inputs,
        values.shape[1] * (8 // bits),
        bits,
        _CODES[activation],
    )


class Native:
    """Kernels in C++ for this processor's instructions; other devices than the CPU get the portable ones."""

    def __init__(self, library: ctypes.CDLL, path: Instructions) -> None:
        self.name = path.name
        self.library = library
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        library.mainspring_linear.argtypes = [pointer, pointer, whole, pointer, ctypes.c_int]
        library.mainspring_sums.argtypes = [pointer, pointer, whole, pointer, pointer]
        library.mainspring_step.argtypes = [pointer, *[pointer] * 3, whole, pointer, ctypes.c_int]
        for function in (library.mainspring_linear, library.mainspring_sums, library.mainspring_step):
            function.restype = None

    def __deepcopy__(self, memo: object) -> Native:
        """Copies of a model share its kernels, which have no state."""
        return self

    def int8(
        self, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None = None
    ) -> Tensor:
        """See `Kernels.int8`."""
        if x.device.type != "cpu":
            return PORTABLE.int8(x, values, scales, bias, activation)
        return self._product(x, values, scales, bias, activation)

    def int4(
        self, x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None = None
    ) -> Tensor:
        """See `Kernels.int4`."""
        if x.device.type != "cpu":
            return PORTABLE.int4(x, packed, scales, bias, activation)
        return self._product(x, packed, scales, bias, activation)

    def _product(
        self, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None
    ) -> Tensor:
        if torch.compiler.is_compiling():
            compiled: Tensor = _product(x, values, scales, bias, activation)
            return compiled
        return self.product(x, values, scales, bias, activation)

    def product(
        self, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None
    ) -> Tensor:
        """`int8` or `int4`, by the dtype of the values."""
        rows = x.detach().float().contiguous()
        bias = None if bias is None else bias.detach().float().contiguous()
        out = torch.empty((*x.shape[:-1], len(values)))
        layer = describe(values, scales, bias, x.shape[-1], activation)
        tokens = rows.numel() // max(1, x.shape[-1])
        self.library.mainspring_linear(
            ctypes.byref(layer), rows.data_ptr(), tokens, out.data_ptr(), torch.get_num_threads()
        )
        return out if x.dtype == torch.float32 else out.to(x.dtype)

    def sums(self, x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What is exact: tokens [M, K] as integers, int8 [M, P], and their integer sums.

        Those are int32: [M, N] with int8 values, and [M, N, B] with packed int4.
        """
        rows = x.float().contiguous()
        one = torch.ones(values.numel() // 32)
        layer = describe(values, one, None, x.shape[1])
        integers = torch.empty(len(rows), layer.filled, dtype=torch.int8)
        shape = (len(rows), len(values)) + (() if layer.bits == 8 else (layer.filled // BLOCK,))
        out = torch.empty(shape, dtype=torch.int32)
        self.library.mainspring_sums(
            ctypes.byref(layer), rows.data_ptr(), len(rows), out.data_ptr(), integers.data_ptr()
        )
        return integers, out


@functools.cache
def native_kernels() -> Native:
    """The compiled kernels, built by the first call of a process that finds no library of theirs.

    Raises:
        OSError: they cannot be built or loaded here, with the reason.
    """
    return Native(*load())


def best_kernels() -> Kernels:
    """The compiled kernels, or where they cannot be had the portable ones, after a warning."""
    try:
        return native_kernels()
    except OSError as error:
        warnings.warn(
            f"the compiled int8 and int4 kernels cannot be had ({error}): the portable ones give the same, "
            "slower. Install g++, or ask for the portable kernels to say that this is meant",
            RuntimeWarning,
            stacklevel=2,
        )
        return PORTABLE


@torch.library.custom_op("mainspring::quantized_linear", mutates_args=())
def _product(
    x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None
) -> Tensor:
    """`Native.product` as compilers need it."""
    return native_kernels().product(x, values, scales, bias, activation)


@_product.register_fake
def _(x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])
