"""Mixture of experts as published, by einsums over tokens x experts x slots: the oracle of the fast layer."""

import torch
from torch.nn.functional import one_hot

from mainspring.nn.feed_forward import apply_activation


def combine_tensor(probabilities, experts, room, *, renormalise=True, order=None):
    """Factors of every token, expert and slot [S, E, C]: slots are given out choice by choice, in `order`."""
    tokens, count = probabilities.shape
    k = experts.shape[1]
    room = tokens * k if room is None else room
    order = torch.arange(tokens) if order is None else order
    taken = torch.zeros(count, dtype=torch.long)
    slots = torch.zeros(tokens, count, room)
    for choice in range(k):
        for token in order.tolist():
            expert = int(experts[token, choice])
            if expert < count:
                if taken[expert] < room:
                    slots[token, expert, taken[expert]] = 1.0
                taken[expert] += 1
    factors = slots * probabilities[:, :, None]
    if k > 1 and renormalise:
        factors = factors / factors.sum((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).eps)
    return factors


def moe(x, factors, up, up_bias, down, down_bias, activation):
    """Dispatch, experts and combination of tokens x [S, D] by the factors [S, E, C]."""
    slots = torch.einsum("sec,sd->ecd", (factors != 0).to(x.dtype), x)
    inner = torch.einsum("ecd,efd->ecf", slots, up)
    active = apply_activation(activation, inner if up_bias is None else inner + up_bias[:, None])
    out = torch.einsum("ecf,edf->ecd", active, down)
    return torch.einsum("sec,ecd->sd", factors, out if down_bias is None else out + down_bias[:, None])


def balance(probabilities, experts):
    """Of one or two choices by the first, of more by all."""
    counted = experts[:, :1] if experts.shape[1] <= 2 else experts
    mask = one_hot(counted, probabilities.shape[1]).float().sum(1)
    return probabilities.shape[1] * (probabilities.mean(0) * mask.mean(0)).sum() / counted.shape[1]
