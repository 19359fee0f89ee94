"""Resize: interpolation along one axis after another, each a product with a small matrix.

The coordinate rules are those of the ONNX operator's documentation; the cubic kernel is Keys' (1981).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, standard


def resize(
    call: Call,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Scale axes to factors or sizes."""
    along = [a % x.ndim for a in call.get("axes") or range(x.ndim)]
    if sizes is not None and sizes.numel():
        wanted = [int(v) for v in sizes.tolist()]
        factors = [w / x.shape[a] for w, a in zip(wanted, along, strict=True)]
        policy = call.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            one = (min if policy == "not_larger" else max)(factors)
            factors = [one] * len(along)
            wanted = [math.floor(one * x.shape[a] + 0.5) for a in along]
    else:
        assert scales is not None, "the checker asks for scales or sizes"
        factors = [float(v) for v in scales.tolist()]
        wanted = [math.floor(f * x.shape[a]) for f, a in zip(factors, along, strict=True)]
    regions = [float(v) for v in roi.tolist()] if roi is not None and roi.numel() else []
    count = len(along)
    for n, (axis, factor, size) in enumerate(zip(along, factors, wanted, strict=True)):
        region = (regions[n], regions[n + count]) if regions else (0.0, 1.0)
        if factor != 1 or size != x.shape[axis] or regions:
            x = _axis(call, x, axis, factor, size, region)
    return x


def resize_first(call: Call, x: Tensor, scales: Tensor) -> Tensor:
    """Resize as opset 10 has it, and Upsample: by factors, asymmetric."""
    old = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    plain = Call(call.domain, call.op, call.name, 11, {**call.attributes, **old}, call.outputs)
    return resize(plain, x, None, scales)


def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Resize by factors that are an input, or before opset 9 an attribute."""
    return resize_first(call, x, torch.tensor(call.attributes["scales"]) if scales is None else scales)


def _axis(call: Call, x: Tensor, axis: int, factor: float, size: int, region: tuple[float, float]) -> Tensor:
    length = x.shape[axis]
    rule = call.get("coordinate_transformation_mode", "half_pixel")
    at = _coordinates(rule, torch.arange(size, dtype=torch.float64), factor, length, size, region)
    outside = (at < 0) | (at > length - 1)
    mode = call.get("mode", "nearest")
    if mode == "nearest":
        places = _nearest(at, call.get("nearest_mode", "round_prefer_floor")).clamp(0, length - 1)
        made = x.index_select(axis, places.long().to(x.device))
    else:
        shrink = min(factor, 1.0) if call.get("antialias", 0) else 1.0
        kernel: Callable[[Tensor], Tensor]
        if mode == "linear":
            kernel, reach = _triangle, 1.0
        else:
            kernel, reach = _cubic(call.get("cubic_coeff_a", -0.75)), 2.0
        matrix = _matrix(at, length, kernel, reach, shrink, bool(call.get("exclude_outside", 0)), mode)
        weights = matrix.to(dtype=x.dtype if x.is_floating_point() else torch.float32, device=x.device)
        wide = x if x.is_floating_point() else x.float()
        made = torch.tensordot(wide, weights, dims=([axis], [1])).movedim(-1, axis)
        made = made if x.is_floating_point() else made.round().to(x.dtype)
    if rule == "tf_crop_and_resize" and bool(outside.any()):
        shape = [-1 if n == axis else 1 for n in range(x.ndim)]
        beyond = outside.to(x.device).reshape(shape)
        made = torch.where(beyond, made.new_tensor(call.get("extrapolation_value", 0.0)), made)
    return made


def _coordinates(
    rule: str, out: Tensor, factor: float, length: int, size: int, region: tuple[float, float]
) -> Tensor:
    """Where in the input an output's elements lie."""
    if rule == "asymmetric":
        return out / factor
    if rule == "align_corners":
        return out * 0 if size == 1 else out * (length - 1) / (factor * length - 1)
    if rule == "pytorch_half_pixel":
        return (out + 0.5) / factor - 0.5 if size > 1 else out * 0
    if rule == "tf_crop_and_resize":
        start, end = region
        if size == 1:
            return out * 0 + 0.5 * (start + end) * (length - 1)
        return start * (length - 1) + out * (end - start) * (length - 1) / (size - 1)
    if rule == "half_pixel_symmetric":
        adjust = size / (factor * length)
        centre = length / 2
        return centre * (1 - adjust) + (out + 0.5) / factor - 0.5
    return (out + 0.5) / factor - 0.5


def _nearest(at: Tensor, mode: str) -> Tensor:
    if mode == "floor":
        return torch.floor(at)
    if mode == "ceil":
        return torch.ceil(at)
    return torch.ceil(at - 0.5) if mode == "round_prefer_floor" else torch.floor(at + 0.5)


def _matrix(
    at: Tensor,
    length: int,
    kernel: Callable[[Tensor], Tensor],
    reach: float,
    shrink: float,
    exclude: bool,
    mode: str,
) -> Tensor:
    """Weight of each input for each output, fp64 [outputs, inputs]."""
    first = torch.floor(at) - math.ceil(reach / shrink) + 1
    taps = torch.arange(2 * math.ceil(reach / shrink), dtype=torch.float64)
    places = first[:, None] + taps  # [outputs, taps]
    weights = kernel((places - at[:, None]) * shrink)
    if exclude:
        weights = torch.where((places < 0) | (places >= length), torch.zeros_like(weights), weights)
    if exclude or shrink < 1:
        weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(len(at), length, dtype=torch.float64)
    return matrix.scatter_add(1, places.clamp(0, length - 1).long(), weights)


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(a: float) -> Callable[[Tensor], Tensor]:
    def kernel(x: Tensor) -> Tensor:
        x = x.abs()
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))

    return kernel


RESIZING: Table = standard({("Resize", 10): resize_first, ("Resize", 11): resize, ("Upsample", 7): upsample})
