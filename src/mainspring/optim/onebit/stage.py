"""What the optimizers that send signs share: a freeze, and weights that follow a momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mainspring.optim.compiled import compiled_update
from mainspring.optim.flat import COMPILE_FROM, SHORT
from mainspring.optim.onebit.buffers import parameters_of
from mainspring.optim.runs import Entry, local, merge, plain
from mainspring.optim.update import LAMB_WEIGHTS, Numbers, run

FROZEN = "frozen"
"""State of every parameter: the step after which the variance was frozen; 0 until then."""


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters without it the state `frozen`."""
    for parameter in parameters_of(optimizer):
        optimizer.state[parameter].setdefault(FROZEN, torch.tensor(0.0))


@torch.no_grad()
def correct(optimizer: torch.optim.Optimizer, first: float, second: float) -> None:
    """Divide the moments by what of gradients is in them: from now on they are used as they are.

    Args:
        optimizer: whose states.
        first: weight of gradients in the first moment: 1 - b1^t.
        second: in the second.
    """
    for parameter in parameters_of(optimizer):
        optimizer.state[parameter]["exp_avg"].div_(first)
        optimizer.state[parameter]["exp_avg_sq"].div_(second)


def advance(optimizer: torch.optim.Optimizer) -> None:
    """Count a step of every parameter."""
    for parameter in parameters_of(optimizer):
        optimizer.state[parameter]["step"] += 1


@torch.no_grad()
def follow(
    group: dict[str, Any],
    moments: dict[nn.Parameter, tuple[Tensor, Tensor]],
    copies: dict[nn.Parameter, Tensor],
    lengths: dict[nn.Parameter, float],
    compiled: bool | None,
) -> None:
    """`p -= length (m / (sqrt(v) + eps) + weight_decay p)` for the parameters of a group.

    Args:
        group: its parameters and settings.
        moments: first and second, flat, of each.
        copies: where new weights go in another dtype as well.
        lengths: of the step of each; of those that are not there the group's `lr`.
        compiled: whether the pass is compiled; None decides by size.
    """
    alike: dict[float, list[Entry]] = {}
    for parameter in group["params"]:
        if parameter.numel():
            p = plain(local(parameter))
            m, v = moments[parameter]
            copy = copies.get(parameter)
            out = None if copy is None else plain(local(copy))
            length = lengths.get(parameter, float(group["lr"]))
            alike.setdefault(length, []).append(Entry(p, m, v, m, out, 0))
    total = sum(entry.p.numel() for entries in alike.values() for entry in entries)
    wants = total >= COMPILE_FROM if compiled is None else compiled
    for length, entries in alike.items():
        now = Numbers(
            lerp=length,
            beta2=1.0,
            square=0.0,
            keep=1.0,
            l2=float(group["weight_decay"]),
            rate=1.0,
            root=1.0,
            eps=float(group["eps"]),
            scale=1.0,
        )
        for entry in merge(entries):
            _step(entry, now, wants and entry.p.numel() >= SHORT)


def _step(entry: Entry, now: Numbers, compiled: bool) -> None:
    h = now.as_tensor(entry.p.device)
    out = None if entry.out is None else entry.out.dtype
    kernel = compiled_update(LAMB_WEIGHTS, entry.p.device.type, entry.g.dtype, out) if compiled else None
    if kernel is not None:
        kernel(entry.p, entry.m, entry.v, entry.g, entry.out, h)
    else:
        run(LAMB_WEIGHTS, entry.p, entry.m, entry.v, entry.g, entry.out, h)
