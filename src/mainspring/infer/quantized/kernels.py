"""What kernels of quantised layers do, and the portable ones: PyTorch's own operators, no compiler needed.

An int8 layer rounds each token to int8 with a scale of its own. An int4 layer multiplies in floating point
here; the compiled tier rounds each block of 64 of a token (as llama.cpp's Q8_0 does of 32). Integer sums are
exact everywhere, so tiers can be compared bit for bit (`int8_sums`, `int4_sums`).

Legend: M tokens, K inputs, P inputs filled up to blocks of 64, B = P / 64 blocks, N outputs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.infer.quantized.integers import BLOCK, fill, unpack_int4
from mainspring.nn.linear import linear

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
"""Functions that kernels apply to what they multiplied."""

FEW_TOKENS = 8
"""Tokens up to which PyTorch's kernel for int8 weights is ahead of widening weights for a product."""
_EXACT = 1 << 24
"""Integers up to here are exact in fp32."""
_SLOWER = 4.0
"""Times of an fp32 product from which `_int_mm` counts as slow."""


class Kernels(Protocol):
    """Products of tokens with quantised weights; all give the dtype of x."""

    name: str
    """What is used: "portable", or the instructions of the compiled tier."""

    def int8(
        self, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None = None
    ) -> Tensor:
        """Both sides int8, a scale for each token and each row of weights.

        Args:
            x: floating point [..., K].
            values: int8 [N, P].
            scales: fp32 [N].
            bias: [N], or none.
            activation: of `ACTIVATIONS`, or none.

        Returns:
            [..., N].
        """
        ...

    def int4(
        self, x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None = None
    ) -> Tensor:
        """Weights in int4.

        Args:
            x: floating point [..., K].
            packed: uint8 [N, P / 2] (`integers.pack_int4`).
            scales: fp32 [N, B].
            bias: [N], or none.
            activation: of `ACTIVATIONS`, or none.

        Returns:
            [..., N].
        """
        ...


class Portable:
    """Kernels out of PyTorch's operators."""

    name = "portable"

    def int8(
        self, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None = None
    ) -> Tensor:
        """See `Kernels.int8`."""
        tokens, token_scales = round_tokens(fill(x.reshape(-1, x.shape[-1])))
        out = self._sums(tokens, values) * token_scales * scales
        return _finish(out, x, bias, activation)

    def _sums(self, tokens: Tensor, values: Tensor) -> Tensor:
        if tokens.device.type == "cuda" or fast_int_mm():
            return int8_sums(tokens, values).float()
        if len(tokens) <= FEW_TOKENS:
            # Integers of 8 bits are exact in bf16; the sums are rounded to it.
            ones = torch.ones(len(values), dtype=torch.bfloat16)
            return torch._weight_int8pack_mm(tokens.bfloat16(), values, ones).float()
        return int8_sums_by_fp32(tokens, values).float()

    def int4(
        self, x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, activation: str | None = None
    ) -> Tensor:
        """See `Kernels.int4`."""
        weight = int4_weight(packed, scales)[:, : x.shape[-1]]
        out = linear(x.reshape(-1, x.shape[-1]).float(), weight)
        return _finish(out, x, bias, activation)


PORTABLE = Portable()


def _finish(out: Tensor, x: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    if bias is not None:
        out = out + bias
    if activation is not None:
        out = ACTIVATIONS[activation](out)
    return out.to(x.dtype).view(*x.shape[:-1], out.shape[-1])


def round_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (or blocks of them) as integers of -127 to 127 with a scale each: [..., K] -> int8 [..., K],
    fp32 [..., 1]. A token with a NaN or an infinity has the scale NaN."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, torch.nan)
    inverse = torch.where(largest > 0, 127 / largest, 0.0)
    return (x * inverse).round().nan_to_num(0.0).clamp(-127, 127).to(torch.int8), largest / 127


def int8_sums(tokens: Tensor, values: Tensor) -> Tensor:
    """tokens values^T in integers: int8 [M, P], int8 [N, P] -> int32 [M, N]."""
    if tokens.device.type == "cuda":  # wants more than 16 rows
        rows = F.pad(tokens, (0, 0, 0, max(0, 17 - len(tokens))))
        return torch._int_mm(rows, values.t())[: len(tokens)]
    return torch._int_mm(tokens, values.t())


@functools.cache
def fast_int_mm() -> bool:
    """Whether `_int_mm` is worth using here: on processors without VNNI it is 30 times slower than fp32
    products (4 against 120 GOP/s on an AMD Zen 3). One small layer is timed, once a process."""
    tokens, values = (torch.ones(size, 512, dtype=torch.int8) for size in (32, 256))
    seconds = []
    for multiply in (int8_sums, int8_sums_by_fp32):
        multiply(tokens, values)
        started = time.perf_counter()
        multiply(tokens, values)
        seconds.append(time.perf_counter() - started)
    return seconds[0] < _SLOWER * seconds[1]


def int8_sums_by_fp32(tokens: Tensor, values: Tensor) -> Tensor:
    """`int8_sums` out of fp32 products of parts that are exact, for machines whose `_int_mm` is slow."""
    span = _EXACT // (127 * 127)
    parts = [
        linear(tokens[:, k : k + span].float(), values[:, k : k + span].float()).to(torch.int32)
        for k in range(0, tokens.shape[1], span)
    ]
    return torch.stack(parts).sum(0, dtype=torch.int32)


def int4_sums(tokens: Tensor, packed: Tensor) -> Tensor:
    """Integer sums of each block: int8 [M, P], packed uint8 [N, P / 2] -> int32 [M, N, B]."""
    values = unpack_int4(packed).view(len(packed), -1, BLOCK).float()
    blocks = tokens.view(len(tokens), -1, BLOCK).float()
    return torch.einsum("mbk,nbk->mnb", blocks, values).to(torch.int32)


def int4_weight(packed: Tensor, scales: Tensor) -> Tensor:
    """What int4 weights say: fp32 [N, P]."""
    blocks = unpack_int4(packed).view(len(packed), -1, BLOCK).float() * scales[..., None]
    return blocks.flatten(1)
