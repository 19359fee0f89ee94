"""The updates as formulas of one element: what p, m, v become of p, m, v, g.

Adam's kin differ only in seven numbers of a step, so one formula serves them all. A formula is run as it
stands on tensors (`run`), compiled for a GPU, or translated to a loop in C++ (`optim.compiled`):

- Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1), decay added to the gradient;
- AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), decay of the weight itself;
- RAdam (Liu et al. 2020, arXiv 1908.03265, algorithm 2), with decay of the weight itself.

Without the correction of the moments (`bias_correction`, as BERT's optimizer and XAdam have it) the powers
b1^t and b2^t below are 0.

With `rate`, `root` and `eps` of a step, the update is `p (1 - decay) - rate m / (root sqrt(v) + eps)`:

    Adam, AdamW          rate = lr / (1 - b1^t)          root = 1 / sqrt(1 - b2^t)   eps = eps
    RAdam, rho_t > 5     rate = lr r_t sqrt(1 - b2^t) / (1 - b1^t)   root = 1        eps = eps
    RAdam, else          rate = lr / (1 - b1^t), or 0    root = 0                    eps = 1

Adamax (Kingma & Ba 2015, section 7.1) keeps in v the largest gradient, which fades, in place of the mean
square: `ADAMAX` has `p (1 - decay) - rate m / v` with Adam's rate.

LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2) goes over memory twice, since the length of a layer's
step is known only when its direction is: `LAMB_MOMENTS`, then `LAMB_WEIGHTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["adamw", "adam", "radam", "adamax"]


class Rectification(NamedTuple):
    """RAdam's choices."""

    above: float = 5.0
    """Length rho_t of the average from which a step is rectified: above 5 in the authors' code and in torch,
    above 4 in the paper."""
    before: Literal["momentum", "none"] = "momentum"
    """What steps before that do: go by the momentum (the paper, torch), or not at all (the authors'
    `degenerated_to_sgd=False`)."""


RECTIFICATION = Rectification()


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
    bias_correction: bool = True,
    rectification: Rectification = RECTIFICATION,
) -> Numbers:
    """The numbers of update `step` (1 for the first), worked out in double precision."""
    beta1, beta2 = betas
    second = 1 - beta2**step
    rate = lr / (1 - beta1**step) if bias_correction else lr
    root = 1 / math.sqrt(second) if bias_correction else 1.0
    if kind == "radam":
        limit = 2 / (1 - beta2) - 1
        rho = limit - 2 * step * beta2**step / second
        if rho > rectification.above:
            top, bottom = (rho - 4) * (rho - 2) * limit, (limit - 4) * (limit - 2) * rho
            rate *= math.sqrt(top / bottom) / root
            root = 1.0
        else:
            rate = rate if rectification.before == "momentum" else 0.0
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


@dataclass(frozen=True)
class Formula:
    """What becomes of an element, in terms that tensors and `optim.source.Expression` both understand."""

    name: str
    compute: Callable[[Any, Any, Any, Any, Any], Sequence[Any]]
    """(p, m, v, g, `Numbers` of values) to the new values of what `writes` names, then the terms of sums."""
    writes: str
    """Letters of what is replaced, of "pmv"; a copy of p is written where p is."""
    sums: int = 0
    """Values over whose elements is summed, after those of `writes`."""


def _moments(p: Any, m: Any, v: Any, gradient: Any, h: Any) -> tuple[Any, Any]:
    return m + (gradient - m) * h.lerp, v * h.beta2 + gradient * gradient * h.square


def _adam(p: Any, m: Any, v: Any, g: Any, h: Any) -> Sequence[Any]:
    first, second = _moments(p, m, v, g * h.scale + p * h.l2, h)
    return p * h.keep - h.rate * first / (second.sqrt() * h.root + h.eps), first, second


def _adamax(p: Any, m: Any, v: Any, g: Any, h: Any) -> Sequence[Any]:
    gradient = g * h.scale + p * h.l2
    first = m + (gradient - m) * h.lerp
    # |g| + eps, or the largest until now, faded: as torch has it.
    largest = (v * h.beta2).maximum(gradient.abs() + h.eps)
    return p * h.keep - h.rate * first / largest, first, largest


def _direction(p: Any, m: Any, v: Any, h: Any) -> Any:
    """LAMB's, with `rate` that of lr = 1, and weight decay in `l2`."""
    return h.rate * m / (v.sqrt() * h.root + h.eps) + p * h.l2


def _lamb_moments(p: Any, m: Any, v: Any, g: Any, h: Any) -> Sequence[Any]:
    first, second = _moments(p, m, v, g * h.scale, h)
    direction = _direction(p, first, second, h)
    return first, second, p * p, direction * direction


def _lamb_weights(p: Any, m: Any, v: Any, g: Any, h: Any) -> Sequence[Any]:
    return (p - h.lerp * _direction(p, m, v, h),)


ADAM = Formula("adam", _adam, "pmv")
"""Adam, AdamW and RAdam."""
ADAMAX = Formula("adamax", _adamax, "pmv")
FORMULAS: dict[Kind, Formula] = {"adamw": ADAM, "adam": ADAM, "radam": ADAM, "adamax": ADAMAX}
LAMB_MOMENTS = Formula("lamb_moments", _lamb_moments, "mv", sums=2)
"""LAMB's first pass: new moments, and the sums of squares of weights and of directions. `rate` is that of
lr = 1, `l2` the weight decay."""
LAMB_WEIGHTS = Formula("lamb_weights", _lamb_weights, "p")
"""LAMB's second: new weights. As in the first, with the length of the step (lr times the trust ratio) in
`lerp`."""


def run(
    formula: Formula, p: Tensor, m: Tensor, v: Tensor, g: Tensor, out: Tensor | None, h: Tensor
) -> Tensor | None:
    """One step of every element, in place.

    Args:
        formula: of the step.
        p: weights, fp32 (or fp64, for the tests), any shape, as all others.
        m: first moments.
        v: second moments.
        g: gradients, fp32, bf16 or fp16.
        out: takes the new weights in its own dtype; None if nobody wants them.
        h: `Numbers.as_tensor`.

    Returns:
        The sums, [formula.sums] in the dtype of p; None where there are none.
    """
    values = formula.compute(p, m, v, g.to(p.dtype), Numbers(*h.unbind()))  # type: ignore[arg-type]
    kept = len(formula.writes)
    sums = torch.stack([value.sum() for value in values[kept:]]) if formula.sums else None
    for letter, value in zip(formula.writes, values[:kept], strict=True):
        {"p": p, "m": m, "v": v}[letter].copy_(value)
    if out is not None and "p" in formula.writes:
        out.copy_(p)
    return sums
