"""The precisions that a model can be run in, and how far from fp32 each may be.

A tolerance is the greatest difference of logits from fp32's that a self-check lets pass, as a part of the
spread (standard deviation) of fp32's logits: rounding shows against what the model says, not against units.
It finds kernels, packs and layouts that are wrong; how much quality a precision costs is measured on text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from mainspring.errors import UsageError, suggest
from mainspring.infer import quantized
from mainspring.infer.quantized.native import native_kernels

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class PrecisionInfo:
    """What a precision is."""

    summary: str
    """One line."""
    tier: Literal["torch", "compiled"]
    """torch: PyTorch's own operators; compiled: our C++ kernels, or without a compiler PyTorch's."""
    tolerance: float
    """Greatest difference of logits that a self-check lets pass, in standard deviations of fp32's."""
    dtype: torch.dtype
    """Of what is computed between matrix products."""
    quantized: bool
    """Whether linear layers are other modules than in training."""


def _tolerance(name: str, bits: float) -> float:
    if name == "fp32":
        return 1e-3
    return next(most for least, most in ((16, 0.2), (8, 0.6), (6, 1.5), (0, 4.0)) if bits >= least)


def _info(precision: quantized.Precision) -> PrecisionInfo:
    name = precision.name
    tier: Literal["torch", "compiled"] = "compiled" if name in ("int8", "int8-weight", "int4") else "torch"
    tolerance = _tolerance(name, precision.bits)
    return PrecisionInfo(precision.summary, tier, tolerance, precision.dtype, precision.make is not None)


PRECISIONS: Mapping[str, PrecisionInfo] = MappingProxyType(
    {name: _info(precision) for name, precision in quantized.PRECISIONS.items()}
)
"""By name."""


def checked(name: str) -> str:
    """The name of a precision.

    Raises:
        UsageError: there is none such; names the nearest.
    """
    if name not in PRECISIONS:
        raise UsageError(
            f"precision {name!r}: should be one of {', '.join(PRECISIONS)}; {suggest(name, PRECISIONS)}"
        )
    return name


def convert(model: M, name: str) -> M:
    """A model in a precision: the module that goes in comes out, changed in place.

    Raises:
        UsageError: there is no such precision.
    """
    info = PRECISIONS[checked(name)]
    if not info.quantized:
        return model.to(info.dtype)
    return quantized.quantize_model(model, name, kernels=_kernels(info)[0]).requires_grad_(False)


def converted(model: M, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> M:
    """A model on meta in a precision, from what `packed` gave of one: nothing is converted or copied.

    Raises:
        WeightsError: the tensors do not fit the model.
    """
    return quantized.load_packed(model, tensors, metadata, kernels=_kernels(PRECISIONS[name])[0]).eval()


def packed(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model in its precision, and what a file has to say of them."""
    return quantized.packed_state(model), quantized.packed_metadata(model)


def _kernels(info: PrecisionInfo) -> tuple[quantized.Kernels, str | None]:
    """What multiplies, and why it is not the compiled kernels where it could be."""
    if info.tier == "torch":
        return quantized.PORTABLE, None
    try:
        return native_kernels(), None
    except OSError as error:
        return quantized.PORTABLE, str(error)


def bf16_is_native(device: torch.device) -> bool:
    """Whether the processor has instructions for products of bf16."""
    if device.type != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(torch.cpu._is_avx512_bf16_supported())


def notes(name: str, device: torch.device) -> tuple[str, ...]:
    """What whoever chose this precision should know on this machine."""
    if name == "bf16" and not bf16_is_native(device):
        return (
            "bf16 is emulated: this processor has no bf16 instructions, so it halves the memory and is not "
            "faster than fp32",
        )
    if PRECISIONS[name].quantized:
        if device.type == "cuda":
            return (f"{name} has been tested on the CPU alone",)
        reason = _kernels(PRECISIONS[name])[1]
        if reason is not None:
            return (f"{name} runs by PyTorch's operators, slower than compiled ({reason})",)
    return ()
