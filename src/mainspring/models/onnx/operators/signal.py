"""Signals: Fourier transforms, windows, sampling on grids, and random numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Function, Table, standard
from mainspring.models.onnx.types import onnx_type


def dft(call: Call, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Discrete Fourier transform; the last axis holds the real part, or real and imaginary parts."""
    dim: int = int(axis) if axis is not None else call.get("axis", 1 if call.opset < 20 else -2)
    dim = dim % x.ndim
    one_sided, back = bool(call.get("onesided", 0)), bool(call.get("inverse", 0))
    size = int(length) if length is not None else None
    wave = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if back and one_sided:
        made: Tensor = torch.fft.irfft(wave, n=size, dim=dim)
        return made[..., None]
    if back:
        return torch.view_as_real(torch.fft.ifft(wave, n=size, dim=dim))
    if one_sided:
        real = wave.real if wave.is_complex() else wave
        return torch.view_as_real(torch.fft.rfft(real, n=size, dim=dim))
    return torch.view_as_real(torch.fft.fft(wave, n=size, dim=dim))


def stft(
    call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    """Fourier transforms of frames of a signal [B, T, 1 or 2]: [B, frames, frequencies, 2]."""
    wave = (
        torch.view_as_complex(x.contiguous()) if x.ndim == 3 and x.shape[-1] == 2 else x.reshape(x.shape[:2])
    )
    size = int(length) if length is not None else len(window) if window is not None else wave.shape[1]
    frames = wave.unfold(1, size, int(step))
    if window is not None:
        frames = frames * window
    if call.get("onesided", 1) and not wave.is_complex():
        return torch.view_as_real(torch.fft.rfft(frames))
    return torch.view_as_real(torch.fft.fft(frames))


def window(*terms: float) -> Function:
    """A window that is a sum of cosines."""

    def apply(call: Call, size: Tensor) -> Tensor:
        count = int(size)
        span = count if call.get("periodic", 1) else count - 1
        angle = torch.arange(count, dtype=torch.float64, device=size.device) * (2 * math.pi / max(span, 1))
        made = sum(((-1) ** n * term) * torch.cos(n * angle) for n, term in enumerate(terms))
        assert isinstance(made, Tensor)
        return made.to(onnx_type(call.get("output_datatype", 1)))

    return apply


def mel_weights(call: Call, bins: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Triangles on the mel scale, [length / 2 + 1, bins]."""
    count, frequencies = int(bins), int(length) // 2 + 1
    edge_low, edge_high = (2595 * math.log10(1 + float(f) / 700) for f in (low, high))
    mels = edge_low + (edge_high - edge_low) / (count + 2) * torch.arange(count + 2, dtype=torch.float64)
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = torch.floor((int(length) + 1) * hertz / int(rate)).long().tolist()
    made = torch.zeros(frequencies, count, dtype=torch.float64)
    for n in range(count):
        first, middle, last = edges[n : n + 3]
        if middle == first:
            made[middle, n] = 1
        for at in range(first, middle + 1):
            if middle != first:
                made[at, n] = (at - first) / (middle - first)
        for at in range(middle, last):
            made[at, n] = (last - at) / (last - middle)
    return made.to(onnx_type(call.get("output_datatype", 1)))


_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}


def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Samples of x at points in [-1, 1]."""
    mode = call.get("mode", "linear")
    return F.grid_sample(
        x,
        grid,
        mode=_SAMPLING.get(mode, mode),
        padding_mode=call.get("padding_mode", "zeros"),
        align_corners=bool(call.get("align_corners", 0)),
    )


def affine_grid(call: Call, theta: Tensor, size: Tensor) -> Tensor:
    """Points of a grid under affine maps."""
    return F.affine_grid(
        theta, [int(v) for v in size.tolist()], align_corners=bool(call.get("align_corners", 0))
    )


def random_like(call: Call, x: Tensor | None = None) -> Tensor:
    """Random numbers, normal or uniform, of the shape of x or a given one."""
    number = call.get("dtype")
    dtype = onnx_type(number) if number else torch.float32 if x is None else x.dtype
    made = torch.empty(call.attributes["shape"] if x is None else x.shape)
    if call.op.startswith("RandomNormal"):
        return made.normal_(call.get("mean", 0.0), call.get("scale", 1.0)).to(dtype)
    return made.uniform_(call.get("low", 0.0), call.get("high", 1.0)).to(dtype)


def bernoulli(call: Call, x: Tensor) -> Tensor:
    """1 with the probability that x gives."""
    number = call.get("dtype")
    return torch.bernoulli(x).to(onnx_type(number) if number else x.dtype)


def multinomial(call: Call, x: Tensor) -> Tensor:
    """Classes drawn by unnormalised log probabilities [B, C]."""
    drawn = torch.multinomial(torch.softmax(x, -1), call.get("sample_size", 1), replacement=True)
    return drawn.to(onnx_type(call.get("dtype", 6)))


SIGNAL: Table = standard(
    {
        ("AffineGrid", 20): affine_grid,
        ("Bernoulli", 15): bernoulli,
        ("BlackmanWindow", 17): window(0.42, 0.5, 0.08),
        ("DFT", 17): dft,
        ("GridSample", 16): grid_sample,
        ("HammingWindow", 17): window(25 / 46, 21 / 46),
        ("HannWindow", 17): window(0.5, 0.5),
        ("MelWeightMatrix", 17): mel_weights,
        ("Multinomial", 7): multinomial,
        ("RandomNormal", 1): random_like,
        ("RandomNormalLike", 1): random_like,
        ("RandomUniform", 1): random_like,
        ("RandomUniformLike", 1): random_like,
        ("STFT", 17): stft,
    }
)
