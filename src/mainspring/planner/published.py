"""Activation bytes of a Megatron layer as published: Korthikanti et al. 2022 (arXiv 2205.05198), section 4.

For 16-bit activations, dropout masks of one byte, and scores that are kept unless attention is selectively
recomputed or fused. Legend: s tokens a row, b rows, h width, a heads, t tensor ranks.
"""

from __future__ import annotations

from typing import Literal

Kept = Literal["all", "selective", "input"]
"""What a layer keeps for backward: everything; all but the scores (selective recomputation, or fused
attention); its input alone (full recomputation)."""


def published_layer_bytes(
    s: int, b: int, h: int, a: int, *, t: int = 1, sequence: bool = False, kept: Kept = "all"
) -> float:
    """Bytes that one layer keeps on a rank.

    - all: s b h (10 + 24/t + 5 a s / (h t)) (equation 2; with t = 1 equation 1, s b h (34 + 5 a s / h));
    - with sequence parallelism all of it is divided by t (equation 4);
    - selective: without the term of the scores (equation 6, and table 2);
    - input: 2 s b h (section 5), divided by t with sequence parallelism. While such a layer is recomputed it
      is there in full once: add `kept="all"` of one layer.

    >>> published_layer_bytes(2048, 1, 12288, 96) / (2048 * 12288)
    114.0
    """
    if kept == "input":
        return 2.0 * s * b * h / (t if sequence else 1)
    scores = 5.0 * a * s / h if kept == "all" else 0.0
    outside = 10.0 / t if sequence else 10.0
    return s * b * h * (outside + (24.0 + scores) / t)
