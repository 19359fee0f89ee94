"""Logits to tokens: greedy, or one draw a row from the row's own generator.

A row takes exactly one uniform number a token, so what it draws depends on its seed and its own logits, never
on the rows beside it, on the size of the vocabulary or on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor


def row_generator(seed: int, index: int) -> Generator:
    """The generator of completion `index` of a call with `seed`: streams of different (seed, index) are
    unrelated."""
    state = np.random.SeedSequence([seed, index]).generate_state(2, np.uint32)
    return Generator("cpu").manual_seed(int(state[0]) << 31 ^ int(state[1]))


def greedy(logits: Tensor) -> Tensor:
    """The greatest of each row, the lowest index among equals. [B, V] -> int64 [B]."""
    return logits.argmax(-1)


def sample(logits: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Draw one token a row with probability softmax(logits), by inverting the cumulative distribution.

    logits [B, V] (-inf excludes a token), one generator a row -> int64 [B].
    """
    uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators]).to(
        logits.device
    )
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Scaled by the actual total, so that rounding cannot place a draw beyond the last token; `right` steps
    # over tokens of probability zero.
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    last = cumulative.shape[-1] - 1 - (logits > -torch.inf).flip(-1).int().argmax(-1)
    return torch.minimum(drawn, last)
