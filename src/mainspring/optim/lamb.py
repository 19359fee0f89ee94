"""LAMB: Adam's direction, and for each layer a length in proportion to its weights (arXiv 1904.00962)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.nn.dtensor import is_dtensor
from mainspring.nn.span import span_of
from mainspring.optim.compiled import compiled_update
from mainspring.optim.flat import COMPILE_FROM, SHORT
from mainspring.optim.runs import Entry
from mainspring.optim.states import allocate, computed_again, entry_of, parameters_of
from mainspring.optim.update import LAMB_MOMENTS, LAMB_WEIGHTS, Formula, Numbers, numbers, run

Join = Callable[[Sequence[nn.Parameter], Tensor], None]
"""Completes rows [n, k] of sums over what is here of n parameters (`parallel.piece_sum`)."""


@dataclass
class Work:
    """One parameter in a step."""

    parameter: nn.Parameter
    entry: Entry
    numbers: Numbers
    lr: float
    adapts: bool


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), with Adam's correction of the moments if wanted.

    Two passes over memory: the first makes the new moments and the norms of each parameter and of its
    direction `u = m / (sqrt(v) + eps) + weight_decay p`; the second makes `p - lr |p| / |u| u`. The ratio is
    1 where a norm is 0. It takes whole parameters, DTensors and the 1-D pieces of sharded ones, with
    gradients in their dtype or in 16 bits.

    Args:
        params: parameters or groups; `lr`, `betas`, `eps`, `weight_decay` and `adapt` may differ between
            groups and steps.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: added to the square root of the second moment.
        weight_decay: of the weights, as a part of the direction.
        adapt: whether the ratio is used; biases and norms commonly go without (`optim.build` does so).
        bias_correction: as in `FlatAdam`.
        join: sums over the ranks that hold pieces (`parallel.piece_sum(model)`); needed for pieces and
            DTensors. Every rank then steps at the same time, with parameters in the same order.
        compiled: as in `FlatAdam`.
    """

    takes_low_gradients = True
    two_passes = True
    """Whether a step is `measure`, `agree`, `advance`, of which the first and the last may be carried out a
    part of the parameters at a time."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        adapt: bool = True,
        bias_correction: bool = True,
        join: Join | None = None,
        compiled: bool | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": adapt}
        super().__init__(params, defaults)
        self.join, self.bias_correction = join, bias_correction
        self.compiled = compiled
        self.copies: dict[nn.Parameter, Tensor] = {}
        """Where to write the new weights of a parameter in another dtype as well, in the second pass."""
        self._squares: dict[nn.Parameter, Tensor] = {}
        self._lengths: dict[nn.Parameter, tuple[float, float]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss again, as in torch.

        Raises:
            ValueError: there are pieces and no `join`.
        """
        loss = computed_again(closure)
        self._update()
        return loss

    @torch.no_grad()
    def measure(self) -> None:
        """First pass over what has gradients now: new moments, and what it adds to sums of squares."""
        self._measure(self._works())

    def agree(self) -> None:
        """Between the passes, with all parameters: add the sums up over the ranks. Every rank calls it.

        Raises:
            ValueError: there are pieces and no `join`.
        """
        everything = parameters_of(self)
        if self.join is None and any(is_dtensor(p) or span_of(p) is not None for p in everything):
            raise ValueError("LAMB needs the norms of whole parameters and has pieces: give it join=")
        nothing = torch.zeros(2, dtype=torch.float64)
        rows = torch.stack([self._squares.get(p, nothing) for p in everything])
        self._squares.clear()
        if self.join is not None:
            there = rows.to(everything[0].device)
            self.join(everything, there)
            rows = there.to("cpu")
        lengths: list[tuple[float, float]] = [(a, b) for a, b in rows.sqrt().tolist()]
        self._lengths = dict(zip(everything, lengths, strict=True))

    @torch.no_grad()
    def advance(self) -> None:
        """Second pass over what has gradients now: new weights, and the step is counted."""
        self._advance(self._works())

    def _update(self) -> None:
        work = self._works()
        self._measure(work)
        self.agree()
        self._advance(work)

    def _measure(self, work: list[Work]) -> None:
        for one in work:
            sums = self._run(LAMB_MOMENTS, one.entry, one.numbers)
            if sums is not None:
                here = sums.to("cpu", torch.float64)
                before = self._squares.get(one.parameter)
                self._squares[one.parameter] = here if before is None else before + here

    def _advance(self, work: list[Work]) -> None:
        for one in work:
            ratio = self._ratio(one, *self._lengths[one.parameter])
            self._run(LAMB_WEIGHTS, one.entry, one.numbers._replace(lerp=one.lr * ratio))
            self.state[one.parameter]["step"] += 1

    def _works(self) -> list[Work]:
        allocate(self.state, [p for p in parameters_of(self) if p.grad is not None])
        return [
            self._work(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]

    def _ratio(self, one: Work, weight: float, direction: float) -> float:
        """The trust ratio of a parameter and a direction of these lengths."""
        return weight / direction if one.adapts and weight > 0 and direction > 0 else 1.0

    def _work(self, parameter: nn.Parameter, group: dict[str, Any]) -> Work:
        entry = entry_of(parameter, self.state[parameter], self.copies.get(parameter))
        settings = {key: group[key] for key in ("betas", "eps", "weight_decay")}
        now = numbers("adam", entry.step, lr=1.0, bias_correction=self.bias_correction, **settings)
        return Work(parameter, entry, now, float(group["lr"]), bool(group["adapt"]))

    def _run(self, formula: Formula, entry: Entry, now: Numbers) -> Tensor | None:
        p, g = entry.p, entry.g
        if not p.numel():
            return None
        out = entry.out if "p" in formula.writes else None
        h = now.as_tensor(p.device)
        if p.dtype == torch.float32 and p.numel() >= SHORT and self._wants():
            kernel = compiled_update(formula, p.device.type, g.dtype, None if out is None else out.dtype)
            if kernel is not None:
                return kernel(p, entry.m, entry.v, g, out, h)
        return run(formula, p, entry.m, entry.v, g, out, h.to(p.dtype))

    def _wants(self) -> bool:
        if self.compiled is not None:
            return self.compiled
        return sum(p.numel() for p in parameters_of(self)) >= COMPILE_FROM
