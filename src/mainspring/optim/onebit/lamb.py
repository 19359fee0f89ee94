"""1-bit LAMB: trust ratios go on by what the variance would have become (arXiv 2104.06069)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.nn.span import logical_shape
from mainspring.numerics.signs import Scale
from mainspring.optim.lamb import Lamb, Work
from mainspring.optim.onebit.buffers import Buffers, Masks, count, one_setting
from mainspring.optim.onebit.settled import Settled, ends_warm_up
from mainspring.optim.onebit.stage import advance, begin, follow, freeze, is_frozen
from mainspring.optim.replicas import Replicas
from mainspring.optim.runs import local, plain
from mainspring.optim.states import allocate, computed_again, parameters_of

FRESH = "exp_avg_sq_fresh"
"""State: the variance, going on from the freeze by gradients that are guessed from momenta."""


@dataclass(frozen=True)
class Thresholds:
    """Bounds of the lengths of layers (DeepSpeed's defaults)."""

    smallest: float = 0.01
    """Of a trust ratio in the warm-up."""
    largest: float = 10.0
    average: float = 0.9
    """Decay of the average of trust ratios."""
    factor_min: float = 0.5
    """Of the factor by which that average is scaled after the freeze."""
    factor_max: float = 4.0
    factor_change: float = 0.1
    """Most by which the factor changes from step to step, of itself."""


class OneBitLamb(Lamb):
    """1-bit LAMB (Li et al. 2022, arXiv 2104.06069, algorithm 1).

    For `freeze_step` steps it is LAMB, and each layer keeps an average of its trust ratio. Then v stays, and
    the ranks average momenta in signs as 1-bit Adam does, as one run with a single scale: each layer's
    momentum is first multiplied by a number, fixed at the freeze, that makes them of like size. A layer steps
    `lr r c u`, with c that average, and r the largest of sqrt(v) / sqrt(fresh v) in it, where the fresh
    variance goes on by the gradient that the new and the old momentum tell of; r stays within bounds and
    changes slowly (`Thresholds`). With weight decay r counts only for Adam's share of the direction.

    Args:
        params: parameters or groups; groups share `betas`. Those without `adapt` step as in 1-bit Adam.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: added to the square root of the second moment.
        weight_decay: of the weights, as a part of the direction.
        replicas: the ranks (`parallel.replicas(model)`).
        freeze_step: as in `OneBitAdam`.
        masks: as in `OneBitAdam`.
        thresholds: bounds of ratios and factors.
        adapt: as in `Lamb`.
        bias_correction: as in `OneBitAdam`.
        scale: as in `OneBitAdam`.
        compiled: as in `FlatAdam`.
    """

    two_passes = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        replicas: Replicas,
        freeze_step: int | Settled,
        masks: Masks | None = None,
        thresholds: Thresholds | None = None,
        adapt: bool = True,
        bias_correction: bool = True,
        scale: Scale = "l1",
        compiled: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            adapt=adapt,
            bias_correction=bias_correction,
            join=lambda parameters, rows: replicas.join(parameters, rows, "sum"),
            compiled=compiled,
        )
        self.freeze_step = freeze_step
        self.thresholds = Thresholds() if thresholds is None else thresholds
        self._replicas, self._masks, self._scale = replicas, dict(masks or {}), scale
        self._buffers: Buffers | None = None
        self._scaling: Tensor | None = None
        replicas.follow(lambda: not self.frozen)

    @property
    def frozen(self) -> bool:
        """Whether the warm-up is over."""
        return is_frozen(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; every rank calls it.

        Args:
            closure: computes the loss again, as in torch.
        """
        loss = computed_again(closure)
        allocate(self.state, parameters_of(self))
        begin(self)
        for parameter in parameters_of(self):
            # "coefficient": average of trust ratios, 0 before the first; "factor": the last r; "scaling":
            # what a momentum is multiplied by before it is sent.
            for key, value in (("coefficient", 0.0), ("factor", 1.0), ("scaling", 1.0)):
                self.state[parameter].setdefault(key, torch.tensor(value))
        if self.frozen:
            self._follow_momentum()
            return loss
        self._update()
        steps = count(self, "step")
        if ends_warm_up(self, self._replicas, steps, self.freeze_step):
            self._freeze(steps)
        return loss

    def settle(self) -> None:
        """Let all ranks owe in common what each owes, so that states may be saved; every rank calls it."""
        if self.frozen:
            self._own_buffers(fresh=False).settle()

    def _ratio(self, one: Work, weight: float, direction: float) -> float:
        ratio = super()._ratio(one, weight, direction)
        if not one.adapts:
            return ratio
        bounds = self.thresholds
        ratio = min(max(ratio, bounds.smallest), bounds.largest)
        if ratio != 1.0:
            average = self.state[one.parameter]["coefficient"]
            before = float(average) or ratio
            average.fill_(bounds.average * before + (1 - bounds.average) * ratio)
        return ratio

    def _freeze(self, steps: int) -> None:
        freeze(self, steps, steps)
        everything = parameters_of(self)
        rows = torch.stack([self.state[p]["exp_avg"].double().square().sum() for p in everything])[:, None]
        self._replicas.join(everything, rows, "sum")
        sizes = torch.tensor([logical_shape(p).numel() for p in everything], dtype=torch.float64)
        lengths = (rows[:, 0].cpu() / sizes).sqrt()
        moving = lengths > 0
        united = float(lengths[moving].mean()) if moving.any() else 1.0
        for parameter, length in zip(everything, lengths.tolist(), strict=True):
            state = self.state[parameter]
            state["scaling"].fill_(united / length if length > 0 else 1.0)
            state[FRESH] = state["exp_avg_sq"].clone()
        self._own_buffers(fresh=True)

    def _own_buffers(self, *, fresh: bool) -> Buffers:
        if self._buffers is None:
            compressed = self._replicas.compressed(whole=True, scale=self._scale)
            self._buffers = Buffers(self, self._replicas, self._masks, compressed)
        if self._buffers.adopt(("exp_avg", "exp_avg_sq", FRESH), fresh=fresh) or self._scaling is None:
            own = torch.ones_like(self._buffers.own("exp_avg"))
            for parameter in parameters_of(self):
                own[self._replicas.place(parameter)] = self.state[parameter]["scaling"].to(own.device)
            self._scaling = self._replicas.gather(own)
        return self._buffers

    def _follow_momentum(self) -> None:
        buffers = self._own_buffers(fresh=False)
        scaling = self._scaling
        assert scaling is not None
        beta1, beta2 = one_setting(self, "betas")
        momentum = buffers.momentum
        guessed = buffers.own("exp_avg") * -beta1
        self._replicas.add_gradients(momentum, beta1, 1 - beta1)
        momentum.mul_(scaling)
        buffers.compressed(momentum, name="momentum")
        momentum.div_(scaling)
        buffers.hold_still()
        guessed.add_(buffers.own("exp_avg")).div_(1 - beta1)
        buffers.own(FRESH).mul_(beta2).addcmul_(guessed, guessed, value=1 - beta2)
        moments = buffers.own("exp_avg"), buffers.own("exp_avg_sq")
        follow(self, self._replicas, *moments, self._strides(buffers))
        advance(self)

    def _strides(self, buffers: Buffers) -> dict[nn.Parameter, float]:
        """How far each layer steps along its direction: lr times its average ratio times its factor."""
        everything = parameters_of(self)
        device = buffers.momentum.device
        sums = torch.zeros(len(everything), 2, dtype=torch.float64, device=device)
        largest = torch.zeros(len(everything), 1, dtype=torch.float64, device=device)
        groups = [group for group in self.param_groups for _ in group["params"]]
        for number, (parameter, group) in enumerate(zip(everything, groups, strict=True)):
            if not (group["adapt"] and parameter.numel()):
                continue
            m, v, fresh = (buffers.view(name, parameter) for name in ("exp_avg", "exp_avg_sq", FRESH))
            eps, decay = float(group["eps"]), float(group["weight_decay"])
            root = v.sqrt().add_(eps)
            largest[number, 0] = (root / fresh.sqrt().add_(eps)).max()
            if decay > 0:
                direction = m / root
                sums[number, 0] = direction.double().square().sum()
                sums[number, 1] = direction.add_(plain(local(parameter)), alpha=decay).double().square().sum()
        self._replicas.join(everything, sums, "sum")
        self._replicas.join(everything, largest, "max")
        found: dict[nn.Parameter, float] = {}
        for parameter, group, (adam, both), (most,) in zip(
            everything, groups, sums.tolist(), largest.tolist(), strict=True
        ):
            if group["adapt"]:
                share = min(1.0, (adam / both) ** 0.5) if group["weight_decay"] > 0 and both > 0 else 1.0
                factor = self._factor(self.state[parameter], most * share + 1 - share)
                found[parameter] = float(group["lr"]) * factor
        return found

    def _factor(self, state: dict[str, Any], wanted: float) -> float:
        """The average ratio times r, which is bounded, also in how it changes."""
        bounds, before = self.thresholds, float(state["factor"])
        r = min(max(wanted, bounds.factor_min), bounds.factor_max)
        r = min(max(r, before * (1 - bounds.factor_change)), before * (1 + bounds.factor_change))
        state["factor"].fill_(r)
        return float(state["coefficient"] or 1.0) * r
