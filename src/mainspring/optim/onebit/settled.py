"""When the variance has settled, so that it may be frozen (1-bit Adam, arXiv 2102.02888)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mainspring.optim.onebit.buffers import one_setting
from mainspring.optim.replicas import Replicas
from mainspring.optim.states import parameters_of

LENGTH = "variance_norm"
"""State of every parameter: the length of the whole variance when it was last looked at; 0 before."""


@dataclass(frozen=True)
class Settled:
    """The warm-up ends once the variance hardly changes any more.

    Tang et al. 2021 compare the sums |v| of steps that lie 1 / (1 - beta2) apart, which is as far back as v
    sees, once the learning rate has risen: the freeze is where the later is at least 0.96 of the earlier.
    Here neither may be below that share of the other, since a variance that still grows has not settled
    either, and both are corrected for their beginning at 0. They are looked at every 1 / (1 - beta2) steps.
    """

    after: int = 0
    """Steps before which it is not looked for: the warm-up of the learning rate."""
    share: float = 0.96
    """Of the larger of two successive lengths that the smaller has to be."""


def ends_warm_up(
    optimizer: torch.optim.Optimizer, replicas: Replicas, steps: int, freeze: int | Settled
) -> bool:
    """Whether the variance is to be frozen after so many steps; every rank asks after each.

    Args:
        optimizer: its states `exp_avg_sq`, uncorrected; what was last seen is kept in `variance_norm`.
        replicas: complete sums of parameters that are cut.
        steps: that have updated the variance.
        freeze: after how many that is, or what tells.
    """
    if isinstance(freeze, Settled):
        return _has_settled(optimizer, replicas, steps, freeze)
    return steps >= freeze


@torch.no_grad()
def _has_settled(optimizer: torch.optim.Optimizer, replicas: Replicas, steps: int, rule: Settled) -> bool:
    _, beta2 = one_setting(optimizer, "betas")
    if steps % math.ceil(round(1 / (1 - beta2), 6)):
        return False
    everything = parameters_of(optimizer)
    rows = torch.stack([optimizer.state[p]["exp_avg_sq"].double().abs().sum() for p in everything])[:, None]
    replicas.join(everything, rows, "sum")
    now = float(rows.sum()) / (1 - beta2**steps)
    before = float(optimizer.state[everything[0]].get(LENGTH, 0.0))
    for parameter in everything:
        optimizer.state[parameter][LENGTH] = torch.tensor(now)
    return steps >= rule.after and min(now, before) >= rule.share * max(now, before) > 0
