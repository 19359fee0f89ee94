"""Clip gradients that ranks have not joined: each its own, all by the same factor."""

from __future__ import annotations

import math

import torch

from mainspring import comm
from mainspring.parallel.strategy import Strategy


@torch.no_grad()
def clip_own_gradients(strategy: Strategy, max_norm: float) -> float:
    """Scale every rank's gradients by one factor, and return the root mean square of their norms.

    The norm of the joined gradient is not known without joining; it is never above this (and by at most the
    square root of the number of ranks below, where gradients are noise), so clipping by it keeps what
    clipping promises. Each rank's gradient is taken as if its rows were the whole batch.
    """
    axes = strategy.axes
    assert axes is not None
    found = strategy.own_gradients()
    first = axes.index("tensor") == 0  # of those that hold the same, one counts it
    counted = [g for cut, g in found if first or (cut is not None and "tensor" in cut.axes)]
    device = found[0][1].device if found else torch.device("cpu")
    square = torch.zeros((), dtype=torch.float64, device=device)
    for gradient in counted:
        square += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square()
    comm.all_reduce(square, name="norm", counter=strategy.counter)
    ranks = axes.size("replicas")
    norm = float((square * (ranks if strategy.reduce == "sum" else 1 / ranks)).sqrt())
    if 0 < max_norm < norm and math.isfinite(norm):
        for _, gradient in found:
            gradient.mul_(max_norm / norm)
    return norm
