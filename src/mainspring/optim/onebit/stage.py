"""What the optimizers that send signs share: a freeze, and weights that follow a momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mainspring.optim.compiled import compiled_update
from mainspring.optim.flat import COMPILE_FROM, SHORT, FlatAdam
from mainspring.optim.lamb import Lamb
from mainspring.optim.onebit.buffers import one_setting
from mainspring.optim.replicas import Replicas
from mainspring.optim.runs import Entry, local, merge, plain
from mainspring.optim.states import parameters_of
from mainspring.optim.update import LAMB_WEIGHTS, Numbers, run

FROZEN = "frozen"
"""State of every parameter: the step after which the variance was frozen; 0 until then."""
DIRECTIONS = "directions"
"""State of every parameter: whether directions are sent (1) or momenta (0); fixed at the freeze, since what
ranks owe is of that kind."""
Sends = Literal["directions", "momenta"]


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters without it the state `frozen`."""
    for parameter in parameters_of(optimizer):
        optimizer.state[parameter].setdefault(FROZEN, torch.tensor(0.0))


def is_frozen(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the variance stays as it is."""
    return bool(optimizer.state[parameters_of(optimizer)[0]].get(FROZEN, 0) > 0)


def sends_directions(optimizer: torch.optim.Optimizer) -> bool:
    """Whether directions are sent since the freeze; of states that do not say it, momenta are."""
    return bool(optimizer.state[parameters_of(optimizer)[0]].get(DIRECTIONS, 0) > 0)


@torch.no_grad()
def freeze(optimizer: FlatAdam | Lamb, steps: int, updates: int, sends: Sends = "momenta") -> None:
    """Let the variance stay as it is from now on.

    Where the optimizer corrects moments, they are divided by what of gradients is in them, 1 - b1^steps and
    1 - b2^updates, and used as they are afterwards.

    Args:
        optimizer: whose states.
        steps: that have updated the first moment.
        updates: of the second.
        sends: what is sent from now on.
    """
    first = second = 1.0
    if optimizer.bias_correction:
        beta1, beta2 = one_setting(optimizer, "betas")
        first, second = 1 - beta1**steps, 1 - beta2**updates
    for parameter in parameters_of(optimizer):
        state = optimizer.state[parameter]
        state["exp_avg"].div_(first)
        state["exp_avg_sq"].div_(second)
        state[FROZEN].fill_(float(steps))
        state[DIRECTIONS] = torch.tensor(float(sends == "directions"))


def advance(optimizer: torch.optim.Optimizer) -> None:
    """Count a step of every parameter."""
    torch._foreach_add_([optimizer.state[p]["step"] for p in parameters_of(optimizer)], 1)


@torch.no_grad()
def follow(
    optimizer: FlatAdam | Lamb,
    replicas: Replicas,
    m: Tensor,
    v: Tensor,
    lengths: Mapping[nn.Parameter, float],
    *,
    decay: bool = True,
) -> None:
    """`p -= length (m / (sqrt(v) + eps) + weight_decay p)` for all parameters.

    Args:
        optimizer: its parameters and settings.
        replicas: say where in the moments a parameter lies.
        m: first moments, flat [own].
        v: second moments, flat [own].
        lengths: of the step of each; of those that are not there their group's `lr`.
        decay: whether weights decay.
    """
    for group in optimizer.param_groups:
        alike: dict[float, list[Entry]] = {}
        for parameter in group["params"]:
            if parameter.numel():
                place = replicas.place(parameter)
                momentum = m[place]
                copy = optimizer.copies.get(parameter)
                out = None if copy is None else plain(local(copy))
                length = lengths.get(parameter, float(group["lr"]))
                entry = Entry(plain(local(parameter)), momentum, v[place], momentum, out, 0)
                alike.setdefault(length, []).append(entry)
        total = sum(entry.p.numel() for entries in alike.values() for entry in entries)
        wants = total >= COMPILE_FROM if optimizer.compiled is None else optimizer.compiled
        for length, entries in alike.items():
            now = Numbers(
                lerp=length,
                beta2=1.0,
                square=0.0,
                keep=1.0,
                l2=float(group["weight_decay"]) if decay else 0.0,
                rate=1.0,
                root=1.0,
                eps=float(group["eps"]),
                scale=1.0,
            )
            h = now.as_tensor(entries[0].p.device)
            merged = merge(entries)
            short = [e for e in merged if e.p.numel() < SHORT and e.out is None]
            _step_short(short, now)
            for entry in merged:
                if entry.p.numel() >= SHORT or entry.out is not None:
                    _step(entry, h, wants and entry.p.numel() >= SHORT)


def _step_short(entries: list[Entry], now: Numbers) -> None:
    """All of them at once: of biases and norms there are many, and calls cost more than the arithmetic."""
    if not entries:
        return
    weights = [e.p for e in entries]
    roots = torch._foreach_sqrt([e.v for e in entries])
    torch._foreach_add_(roots, now.eps)
    directions = torch._foreach_div([e.m for e in entries], roots)
    if now.l2:
        torch._foreach_add_(directions, weights, alpha=now.l2)
    torch._foreach_add_(weights, directions, alpha=-now.lerp)


def _step(entry: Entry, h: Tensor, compiled: bool) -> None:
    out = None if entry.out is None else entry.out.dtype
    kernel = compiled_update(LAMB_WEIGHTS, entry.p.device.type, entry.g.dtype, out) if compiled else None
    if kernel is not None:
        kernel(entry.p, entry.m, entry.v, entry.g, entry.out, h)
    else:
        run(LAMB_WEIGHTS, entry.p, entry.m, entry.v, entry.g, entry.out, h)
