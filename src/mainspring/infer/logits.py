"""Logits to logits: the filters between a model and the choice of a token. Pure; rows never mix.

Shapes: B rows, V tokens of the vocabulary. Order of use: penalty, temperature, blocked n-grams (`History`),
top-k, top-p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.infer.options import GenerateOptions


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits of seen tokens by `penalty` and multiply negative ones by it.

    logits [B, V], seen bool [B, V] -> [B, V]. Source: Keskar et al. 2019 (CTRL, arXiv 1909.05858), section
    4.1, with the sign respected so that the penalty always lowers.
    """
    if penalty == 1.0:
        return logits
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """-inf at all but the k greatest of each row (those equal to the k-th stay). [B, V] -> [B, V]; k = 0
    keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """-inf outside the nucleus: the fewest tokens whose probability reaches `p`, at least one. [B, V] -> [B,
    V].

    Source: Holtzman et al. 2020 (arXiv 1904.09751), equations 2 and 3.
    """
    if p >= 1.0:
        return logits
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    probability = values.softmax(-1)
    before = probability.cumsum(-1) - probability
    outside = before >= p
    outside[:, 0] = False
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)


def sampling_logits(logits: Tensor, options: GenerateOptions, blocked: Tensor | None = None) -> Tensor:
    """Apply temperature, blocking, top-k and top-p in this order. [B, V] -> fp32 [B, V].

    Args:
        logits: [B, V].
        options: `temperature` above 0.
        blocked: bool [B, V], tokens that may not be drawn; in no row all of them.
    """
    scaled = logits.float() / options.temperature
    # A temperature near 0 overflows to infinities; the greatest logit as the origin keeps softmax exact.
    scaled = (
        scaled
        if bool(scaled.isfinite().all())
        else (logits - logits.amax(-1, keepdim=True)).double().div(options.temperature).float()
    )
    return keep_top_p(keep_top_k(block(scaled, blocked), options.top_k), options.top_p)


def block(logits: Tensor, blocked: Tensor | None) -> Tensor:
    """-inf where `blocked`, bool [B, V]; None blocks nothing. [B, V] -> [B, V]."""
    return logits if blocked is None else logits.masked_fill(blocked, -torch.inf)
