"""The compiled tier: int8 and int4 products and a whole step of decoding in C++, built on demand."""

from mainspring.infer.quantized.native.decode import DecodeStep
from mainspring.infer.quantized.native.kernels import Native, best_kernels, native_kernels

__all__ = ["DecodeStep", "Native", "best_kernels", "native_kernels"]
