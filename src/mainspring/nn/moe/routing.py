"""Which tokens go to which experts: capacity, dropping, order, and the losses that keep experts busy.

Pure functions. Shazeer et al. 2017 (arXiv 1701.06538); top-2 after Lepikhin et al. 2020 (GShard, arXiv
2006.16668, algorithm 1); top-1, capacity and the balance loss after Fedus et al. 2021 (Switch, arXiv
2101.03961, equations 3 to 6); the z loss after Zoph et al. 2022 (ST-MoE, arXiv 2202.08906, equation 5);
random token selection after Kim et al. 2021 (Z-code M3, arXiv 2109.10465, section 3.2). Formulas are those of
DeepSpeed-MoE's published gates, but for two defects: what is ranked by probability is ranked by probability
(not by logits, of which negative ones lose to the zeros of tokens that never asked), and without dropping
there is nothing to be left undefined.

Legend: S tokens, E experts, k choices of a token, N choices that are carried out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""Adds sums up over processes, with a gradient."""
Keep = Literal["random", "first", "probability"]
"""Which tokens an overfull expert keeps: any alike, the first of the batch, or those surest of it."""


class Routing(NamedTuple):
    """Choices in the order of their experts, as `dispatch` and `combine` use them."""

    token: Tensor
    """Token of each choice, int64 [N]; those of expert 0 come first, then those of expert 1."""
    weight: Tensor
    """Factor of the expert's output, fp32 [N]."""
    counts: Tensor
    """Choices of each expert, int64 [E]."""
    tokens: int
    """S."""


def capacity(tokens: int, experts: int, factor: float | None, choices: int, minimum: int) -> int | None:
    """Most tokens that an expert takes: max(ceil(tokens / experts * factor * choices), minimum).

    Args:
        tokens: of the batch.
        experts: of the layer.
        factor: room beside an equal share (None: there is always room, and the result is None).
        choices: experts of a token.
        minimum: room that there is at least.

    >>> capacity(64, 8, 1.0, 2, 4), capacity(10, 8, 1.0, 1, 4), capacity(10, 8, None, 1, 4)
    (16, 4, None)
    """
    if factor is None:
        return None
    # In one division of whole products first: 1.1 * 10 / 11 must not become 2 by a rounding error.
    return max(math.ceil(round(tokens * choices * factor / experts, 9)), minimum)


def choose(logits: Tensor, k: int, noise: Tensor | None = None) -> Tensor:
    """Experts of each token, the most probable first: int64 [S, k].

    Args:
        logits: fp32 [S, E].
        k: experts of a token.
        noise: [S, E] added before choosing, where k is more than 1 only before the choices after the first.
    """
    if noise is None:
        return logits.topk(k, dim=1).indices
    if k == 1:
        return (logits + noise).argmax(1, keepdim=True)
    first = logits.argmax(1, keepdim=True)
    others = (logits + noise).scatter(1, first, -math.inf)
    return torch.cat([first, others.topk(k - 1, dim=1).indices], dim=1)


def gumbel(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Noise whose argmax with logits is a draw from their softmax (Gumbel 1954), of the shape of `logits`."""
    return -torch.empty_like(logits).exponential_(generator=generator).log()


def priorities(
    keep: Keep, experts: Tensor, probabilities: Tensor, generator: torch.Generator | None = None
) -> Tensor | None:
    """The lower, the sooner a choice is kept: [k * S], first choices of all tokens before second ones.

    None is the order of the tokens. By probability, a sure second choice goes before an unsure first one.

    Args:
        keep: the rule.
        experts: int64 [S, k].
        probabilities: of every expert, [S, E].
        generator: of random numbers (None: torch's own).
    """
    if keep == "first":
        return None
    if keep == "probability":
        return -probabilities.detach().gather(1, experts).t().reshape(-1)
    draws = torch.rand(experts.t().shape, device=experts.device, generator=generator)
    # Halves, because the sum of a rank and a draw just under 1 may round up to the next rank.
    ranks = torch.arange(experts.shape[1], device=experts.device, dtype=draws.dtype)
    return (ranks[:, None] + draws / 2).reshape(-1)


class Assignment(NamedTuple):
    """Choices that are carried out."""

    order: Tensor
    """choice * S + token, int64 [N], in the order of experts and, within one, of priority."""
    counts: Tensor
    """Of each expert, int64 [E]."""


def assign(experts: Tensor, count: int, room: int | None, priority: Tensor | None = None) -> Assignment:
    """Sort choices by expert, and leave out what an expert has no room for.

    Args:
        experts: int64 [S, k]; `count` where a token has none (padding).
        count: E.
        room: choices that an expert takes (None: any number).
        priority: [k * S], the lower the sooner it is kept (None: first choices first, then by token).
    """
    flat = experts.t().reshape(-1)
    ranked = flat if priority is None else flat[by_priority := priority.argsort(stable=True)]
    order = ranked.argsort(stable=True)
    counts = torch.bincount(flat, minlength=count + 1)[:count]
    order = order[: int(counts.sum())]
    if room is not None and int(counts.max()) > room:
        starts = counts.cumsum(0) - counts
        place = torch.arange(len(order), device=order.device) - starts[ranked[order]]
        order = order[place < room]
        counts = counts.clamp(max=room)
    return Assignment(order if priority is None else by_priority[order], counts)


def weigh(
    probabilities: Tensor, experts: Tensor, assignment: Assignment, *, renormalise: bool
) -> tuple[Tensor, Tensor]:
    """Tokens and factors of the choices that are carried out: int64 [N], and fp32 [N] with a gradient.

    Args:
        probabilities: fp32 [S, E].
        experts: int64 [S, k].
        assignment: of those experts.
        renormalise: factors of a token add up to 1 over the choices that it has left.
    """
    tokens, k = experts.shape
    token = assignment.order % tokens
    chosen = probabilities.gather(1, experts.clamp(max=probabilities.shape[1] - 1)).t().reshape(-1)
    if not (renormalise and k > 1):
        return token, chosen[assignment.order]
    kept = torch.zeros_like(chosen).index_fill_(0, assignment.order, 1.0)
    left = (chosen * kept).view(k, tokens)
    total = left.sum(0).clamp(min=torch.finfo(left.dtype).eps)
    return token, (left / total).view(-1)[assignment.order]


def alone(sums: Tensor) -> Tensor:
    """Sums over the tokens here, where these are all tokens."""
    return sums


def balance_loss(
    probabilities: Tensor, experts: Tensor, valid: Tensor | None = None, total: Total = alone
) -> Tensor:
    """E * sum_e mean(probability of e) * share of choices of e; 1 where experts are chosen alike often.

    Choices count before any is dropped: of one or two of a token the first, of more all.

    Args:
        probabilities: fp32 [S, E].
        experts: int64 [S, k].
        valid: tokens that count, bool [S] (None: all).
        total: adds sums up over all processes that have tokens of the batch.
    """
    count = probabilities.shape[1]
    counted = experts[:, :1] if experts.shape[1] <= 2 else experts
    if valid is not None:
        probabilities = probabilities * valid[:, None]
        counted = counted.masked_fill(~valid[:, None], count)
    chosen = torch.bincount(counted.reshape(-1), minlength=count + 1)[:count].to(probabilities.dtype)
    sums = total(torch.cat([probabilities.sum(0), chosen, _number(probabilities, valid)]))
    sure, chosen, tokens = sums.split_with_sizes([count, count, 1])
    tokens = tokens[0].clamp(min=1)
    return count * torch.dot(sure / tokens, chosen / (tokens * counted.shape[1]))


def z_loss(logits: Tensor, valid: Tensor | None = None, total: Total = alone) -> Tensor:
    """Mean over tokens of the squared log of the softmax's normaliser, which keeps logits small.

    Args:
        logits: fp32 [S, E].
        valid: tokens that count, bool [S] (None: all).
        total: adds sums up over all processes that have tokens of the batch.
    """
    squares = logits.logsumexp(1).square()
    squares = squares if valid is None else squares * valid
    square, tokens = total(torch.cat([squares.sum()[None], _number(logits, valid)]))
    loss: Tensor = square / tokens.clamp(min=1)
    return loss


def _number(like: Tensor, valid: Tensor | None) -> Tensor:
    """Number of tokens that count, [1], as `like` [S, E] has them."""
    if valid is None:
        return like.new_full((1,), len(like))
    return valid.sum()[None].to(like.dtype)
