"""The update of Adam and its kin as one expression over flat tensors: read p, m, v, g; write p, m, v.

The members differ only in seven numbers of a step, so one source serves them all, run as it stands or
compiled (`optim.compiled`):

- Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1), decay added to the gradient;
- AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), decay of the weight itself;
- RAdam (Liu et al. 2020, arXiv 1908.03265, algorithm 2), with decay of the weight itself.

With `rate`, `root` and `eps` of a step, the update is `p (1 - decay) - rate m / (root sqrt(v) + eps)`:

    Adam, AdamW          rate = lr / (1 - b1^t)          root = 1 / sqrt(1 - b2^t)   eps = eps
    RAdam, rho_t > 5     rate = lr r_t sqrt(1 - b2^t) / (1 - b1^t)   root = 1        eps = eps
    RAdam, else          rate = lr / (1 - b1^t)          root = 0                    eps = 1
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["adamw", "adam", "radam"]


class Numbers(NamedTuple):
    """What of an update changes from step to step or from group to group, in the order of `as_tensor`."""

    lerp: float
    """1 - b1."""
    beta2: float
    square: float
    """1 - b2."""
    keep: float
    """What is left of a weight by decoupled decay: 1 - lr weight_decay, or 1."""
    l2: float
    """Weight decay that is added to the gradient, or 0."""
    rate: float
    root: float
    eps: float
    scale: float
    """Factor of the gradient (clipping, loss scale)."""

    def as_tensor(self, device: torch.device) -> Tensor:
        """fp32 [9] on `device`."""
        host = torch.tensor(self, dtype=torch.float32)
        return host if device.type == "cpu" else host.to(device, non_blocking=True)


def numbers(
    kind: Kind,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    scale: float = 1.0,
) -> Numbers:
    """The numbers of update `step` (1 for the first), worked out in double precision."""
    beta1, beta2 = betas
    rate, second = lr / (1 - beta1**step), 1 - beta2**step
    root = 1 / math.sqrt(second)
    if kind == "radam":
        limit = 2 / (1 - beta2) - 1
        rho = limit - 2 * step * beta2**step / second
        if rho > 5:
            top, bottom = (rho - 4) * (rho - 2) * limit, (limit - 4) * (limit - 2) * rho
            rate *= math.sqrt(top / bottom) * math.sqrt(second)
            root = 1.0
        else:
            root, eps = 0.0, 1.0
    coupled = kind == "adam"
    return Numbers(
        lerp=1 - beta1,
        beta2=beta2,
        square=1 - beta2,
        keep=1.0 if coupled else 1 - lr * weight_decay,
        l2=weight_decay if coupled else 0.0,
        rate=rate,
        root=root,
        eps=eps,
        scale=scale,
    )


def update(p: Tensor, m: Tensor, v: Tensor, g: Tensor, out: Tensor | None, h: Tensor) -> None:
    """One step of every element, in place.

    Args:
        p: weights, fp32, any shape; changed.
        m: first moments, fp32; changed.
        v: second moments, fp32; changed.
        g: gradients, fp32, bf16 or fp16.
        out: takes the new weights in its own dtype; None if nobody wants them.
        h: `Numbers.as_tensor`.
    """
    lerp, beta2, square, keep, l2, rate, root, eps, scale = h.unbind()
    gradient = g.to(p.dtype) * scale + p * l2
    first = m + (gradient - m) * lerp
    second = v * beta2 + gradient * gradient * square
    weight = p * keep - rate * first / (second.sqrt() * root + eps)
    p.copy_(weight)
    m.copy_(first)
    v.copy_(second)
    if out is not None:
        out.copy_(weight)


def lamb_direction(p: Tensor, m: Tensor, v: Tensor, g: Tensor, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The first pass of LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2) over one parameter or piece.

    Takes what `update` takes; `h` carries weight decay as `l2` and a `rate` with lr = 1. Writes m, v and the
    direction `u = rate m / (root sqrt(v) + eps) + l2 p`, fp32.

    Returns:
        Sums of squares of p and of u, fp32 [] each: of a piece, to be summed over the pieces of a parameter.
    """
    lerp, beta2, square, _, l2, rate, root, eps, scale = h.unbind()
    gradient = g.to(p.dtype) * scale
    first = m + (gradient - m) * lerp
    second = v * beta2 + gradient * gradient * square
    direction = rate * first / (second.sqrt() * root + eps) + p * l2
    m.copy_(first)
    v.copy_(second)
    u.copy_(direction)
    return (p * p).sum(), (direction * direction).sum()
