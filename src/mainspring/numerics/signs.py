"""Numbers as signs and one length: a bit an element, and what that leaves out, kept to be sent later.

A vector is a row of runs (the tensors of a model, say); each run has a scale of its own. With `z = x + e` a
run becomes `scale * sgn(z)`, sgn(0) = 1, and the next error is `z - scale * sgn(z)` (Seide et al. 2014;
Karimireddy et al. 2019, arXiv 1901.09847). The scale "l1" is the mean of |z|: then the error is never longer
than z (1 - |z|_1^2 / (n |z|_2^2) of its square is left). "l2" is the root of the mean square, which keeps
the length of z but is no contraction: of a vector with one number in ten not zero, the error is longer than
the vector.

A message is 32-bit words: the scales of all runs as fp32, then for each run its signs, 8 a byte, the first
in the lowest bit, 1 where not negative; a run begins a byte.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mainspring.numerics.signs_native import Kernels, kernels

Scale = Literal["l1", "l2"]
"""Length of a run's signs: mean of absolute values, or root of the mean square."""

NATIVE_FROM = 2**16
"""Elements from which the compiled loops are worth their second of compiling."""


def worth_compiling(elements: int, device: torch.device) -> bool:
    """Whether compiled loops serve where so many elements are packed again and again."""
    return device.type == "cpu" and elements >= NATIVE_FROM


def message_bytes(runs: Sequence[int]) -> int:
    """Bytes of the message of runs of so many elements.

    >>> message_bytes([8, 9])  # two scales, 1 + 2 bytes of signs, filled up to whole words
    12
    """
    return 4 * (len(runs) + -(-sum(-(-n // 8) for n in runs) // 4))


@torch.no_grad()
def compress(
    values: Tensor,
    error: Tensor,
    runs: Sequence[int],
    message: Tensor,
    *,
    scale: Scale = "l1",
    native: bool | None = None,
) -> None:
    """Write `values + error` as signs to `message`, and what they leave out to `error`.

    Args:
        values: fp32 [sum of runs], contiguous.
        error: fp32, as `values`; replaced.
        runs: elements of each run, none 0.
        message: uint8 [`message_bytes(runs)`], contiguous, beginning at a word.
        scale: length of a run's signs.
        native: whether compiled loops are used; None where they are worth it.
    """
    if not runs:
        return
    scales, bits = _parts(message, len(runs))
    loops = _loops(values, native)
    if loops is not None:
        loops.compress(values, error, runs, scales, bits, squares=scale == "l2")
        return
    error.add_(values)
    where = 0
    for number, z in enumerate(torch.split(error, list(runs))):
        size = -(-z.numel() // 8)
        length = z.abs().sum(dtype=torch.float64) / z.numel()
        if scale == "l2":
            length = (z.double().square().sum() / z.numel()).sqrt()
        scales[number] = length
        positive = z >= 0
        bits[where : where + size] = _pack(positive)
        z.sub_(torch.where(positive, scales[number], -scales[number]))
        where += size
    bits[where:].zero_()


@torch.no_grad()
def expand(
    message: Tensor,
    runs: Sequence[int],
    out: Tensor,
    *,
    weight: float = 1.0,
    add: bool = False,
    native: bool | None = None,
) -> None:
    """Read a message: `weight` times its numbers replace `out`, or are added to it.

    Args:
        message: uint8, as `compress` wrote it.
        runs: elements of each run.
        out: fp32 [sum of runs], contiguous.
        weight: factor of all numbers.
        add: add to what is there.
        native: whether compiled loops are used; None where they are worth it.
    """
    if not runs:
        return
    scales, bits = _parts(message, len(runs))
    loops = _loops(out, native)
    if loops is not None:
        loops.expand(scales, bits, runs, out, weight, add=add)
        return
    where = 0
    for number, part in enumerate(torch.split(out, list(runs))):
        size = -(-part.numel() // 8)
        positive = _unpack(bits[where : where + size], part.numel())
        length = scales[number] * weight
        numbers = torch.where(positive, length, -length)
        part.add_(numbers) if add else part.copy_(numbers)
        where += size


def _parts(message: Tensor, runs: int) -> tuple[Tensor, Tensor]:
    return message[: 4 * runs].view(torch.float32), message[4 * runs :]


def _pack(positive: Tensor) -> Tensor:
    """bool [n] -> uint8 [n / 8, rounded up]."""
    padded = torch.nn.functional.pad(positive.to(torch.uint8), (0, -positive.numel() % 8))
    places = 2 ** torch.arange(8, dtype=torch.uint8, device=positive.device)
    return (padded.view(-1, 8) * places).sum(1, dtype=torch.uint8)


def _unpack(bits: Tensor, count: int) -> Tensor:
    """uint8 [n / 8, rounded up] -> bool [n]."""
    places = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] & places) != 0).view(-1)[:count]


def _loops(values: Tensor, native: bool | None) -> Kernels | None:
    """The compiled loops, where they serve."""
    if native is None:
        native = worth_compiling(values.numel(), values.device)
    return _compiled() if native else None


@functools.cache
def _compiled() -> Kernels | None:
    try:
        return kernels()
    except OSError as error:
        warnings.warn(
            f"packing of signs could not be compiled ({str(error)[:300]}): torch's operations do it, right "
            "but slower; install g++",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
