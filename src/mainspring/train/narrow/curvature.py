"""Largest eigenvalues of the Hessian, a layer at a time, by power iteration.

Yao et al. 2020 (PyHessian, arXiv 1912.07145), section 3: v := H v / |H v|, lambda = v . H v. Products with
the Hessian are central differences of gradients, H v = (g(w + e v) - g(w - e v)) / 2 e: they need nothing but
gradients, so that any way of spreading a model over ranks gives them, where a second derivative through its
hooks would not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Sums = Callable[[Sequence[nn.Parameter], Tensor], None]
"""Completes rows [n, 1] of sums over what is here of n parameters (`parallel.piece_sum`)."""

STEP = 1e-2
"""e |v|, as a share of the length of the layer's weights."""


def _alone(parameters: Sequence[nn.Parameter], rows: Tensor) -> None:
    """Everything is here."""


@torch.no_grad()
def largest_eigenvalues(
    gradients: Callable[[], None],
    layers: Mapping[str, Sequence[nn.Parameter]],
    *,
    iterations: int = 100,
    tolerance: float = 1e-2,
    seed: int = 0,
    sums: Sums = _alone,
    changed: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """|lambda| of largest size of each layer's block of the Hessian.

    Args:
        gradients: fills `.grad` of all parameters, at their present values; a pure function of these.
        layers: parameters of each layer, or the pieces of them that are here; the same names on every rank.
        iterations: most steps.
        tolerance: relative change at which they end.
        seed: of the first directions.
        sums: as `parallel.piece_sum` makes it, for pieces.
        changed: is told after every change of a parameter's values (`parallel.settle`).
    """
    found = {}
    for number, (name, parameters) in enumerate(layers.items()):
        draw = torch.Generator().manual_seed(seed + number)
        own = [p for p in parameters if p.requires_grad]
        found[name] = _power(own, gradients, sums, changed, draw, iterations, tolerance)
    return found


def _power(
    parameters: Sequence[nn.Parameter],
    gradients: Callable[[], None],
    sums: Sums,
    changed: Callable[[], None],
    draw: torch.Generator,
    iterations: int,
    tolerance: float,
) -> float:
    def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        rows = torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)])[:, None]
        sums(parameters, rows)
        return float(rows.sum())

    def scaled(tensors: Sequence[Tensor], factor: float) -> list[Tensor]:
        return [t * factor for t in tensors]

    kept = [p.detach().clone() for p in parameters]
    size = dot(kept, kept) ** 0.5 or 1.0
    step = STEP * size
    v: Sequence[Tensor] = [torch.randn(p.shape, generator=draw).to(p.device) for p in parameters]
    v = scaled(v, 1 / (dot(v, v) ** 0.5 or 1.0))
    value = 0.0
    for _ in range(iterations):
        sides = []
        for sign in (1.0, -1.0):
            for p, w, d in zip(parameters, kept, v, strict=True):
                p.copy_(w + sign * step * d)
            changed()
            with torch.enable_grad():
                gradients()
            sides.append([_gradient(p) for p in parameters])
        product = [(a - b) / (2 * step) for a, b in zip(*sides, strict=True)]
        before, value = value, dot(v, product)
        length = dot(product, product) ** 0.5
        if length == 0.0 or length != length:
            break
        v = scaled(product, 1 / length)
        if abs(value - before) <= tolerance * abs(value):
            break
    for p, w in zip(parameters, kept, strict=True):
        p.copy_(w)
    changed()
    return abs(value)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.detach().float().clone()
