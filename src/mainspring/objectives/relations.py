"""What attention says of how tokens are related, and how far one network's relations are from another's.

Wang et al. 2020 (MiniLM, arXiv 2002.10957), section 3: of a layer's queries Q, keys K and values V, the
attention distribution softmax(Q K^T / sqrt(d)) and the value relation softmax(V V^T / sqrt(d)). Wang et al.
2021 (MiniLMv2, arXiv 2012.15828), section 3: any two of the three, with all heads joined and cut anew into
relation heads, so that the networks' heads may differ in number. A relation is tokens by tokens: networks of
different widths compare without a projection.

Legend: B rows, T tokens, H heads, E their width, R relation heads, F their width (H E = R F).
"""

from __future__ import annotations

import torch
from torch import Tensor

_NOT_SEEN = -1e30
"""Score of what a token may not see: finite, so that 0 times its logarithm is 0."""


def relation_heads(x: Tensor, width: int) -> Tensor:
    """Join heads and cut them anew: [B, T, H, E] -> [B, R, T, F], F = width."""
    return x.reshape(*x.shape[:2], -1, width).transpose(1, 2)


def log_relation(a: Tensor, b: Tensor, scale: float, allowed: Tensor) -> Tensor:
    """log softmax(a b^T scale) over the tokens that each token sees, in fp32.

    Args:
        a, b: [B, R, T, F].
        scale: factor on the products.
        allowed: bool [B, 1, T, T], which token (row) sees which.

    Returns:
        fp32 [B, R, T, T]; at what is not seen a number below -1e29.
    """
    scores = (a @ b.transpose(-1, -2)).float() * scale
    return torch.log_softmax(scores.masked_fill(~allowed, _NOT_SEEN), dim=-1)


def summed_divergence(teacher: Tensor, student: Tensor, counted: Tensor) -> Tensor:
    """Sum over counted tokens and relation heads of KL(teacher || student): fp32 scalar, in nats.

    Args:
        teacher, student: logarithms of distributions, fp32 [B, R, T, T].
        counted: bool [B, T], tokens whose distributions count.
    """
    terms = (teacher.exp() * (teacher - student)).sum(-1)
    return terms.masked_fill(~counted[:, None], 0.0).sum()
