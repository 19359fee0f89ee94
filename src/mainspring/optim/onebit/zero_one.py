"""0/1 Adam: fewer and fewer steps update the variance, then fewer communicate (arXiv 2202.06009)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mainspring.numerics.signs import Scale
from mainspring.optim.flat import FlatAdam
from mainspring.optim.onebit.buffers import Buffers, Masks, count, one_setting
from mainspring.optim.onebit.stage import advance, begin, follow, freeze, is_frozen
from mainspring.optim.replicas import Replicas
from mainspring.optim.runs import local, plain
from mainspring.optim.states import allocate, computed_again, parameters_of


@dataclass(frozen=True)
class Policy:
    """Which steps do what, as a function of their number (1 for the first). Names are DeepSpeed's."""

    var_freeze_step: int
    """Last step that may update the variance."""
    var_update_scaler: int = 16
    """Updates of the variance after which the interval between them doubles."""
    local_step_scaler: int = 32678
    """Steps after which the interval between communications doubles, once the variance is frozen."""
    local_step_clipper: int = 16
    """Largest such interval."""

    def variance_updates(self, step: int) -> int:
        """How many steps up to this one, it included, have updated the variance (before it was frozen).

        >>> [Policy(100, var_update_scaler=2).variance_updates(t) for t in (1, 2, 3, 4, 6, 7, 8, 12)]
        [1, 2, 2, 3, 4, 4, 5, 6]
        """
        step = min(step, self.var_freeze_step)
        done, end, interval = 0, 0, 1
        while True:
            last = (end // interval + self.var_update_scaler) * interval
            if step < last:
                return done + max(0, step // interval - end // interval)
            done, end, interval = done + self.var_update_scaler, last, 2 * interval

    def updates_variance(self, step: int) -> bool:
        """Whether a step has the whole gradient, and updates both moments."""
        return step <= self.var_freeze_step and self.variance_updates(step) > self.variance_updates(step - 1)

    def communicates(self, step: int) -> bool:
        """Whether a step after the freeze ends an interval."""
        doublings = (step - self.var_freeze_step - 1) // self.local_step_scaler
        return step % min(self.local_step_clipper, 1 << min(doublings, 30)) == 0


class ZeroOneAdam(FlatAdam):
    """0/1 Adam (Lu et al. 2022, arXiv 2202.06009, algorithm 1), with AdamW's decay of weights.

    Up to `var_freeze_step` some steps have the whole gradient and update both moments; the others have the
    compressed mean of gradients and update the first. Afterwards each rank steps by its own momentum, and
    only at the end of an interval the ranks average how far they went: with x the compressed mean of
    `(p - p0) (sqrt(v) + eps)`, p0 being the weights where the interval began,

        m = -x / (sum of lr)        p = p0 (1 - weight_decay * sum of lr) + x / (sqrt(v) + eps)

    Between such steps weights differ from rank to rank; `settle` ends an interval. (The original adds the
    decay to the direction and so to the momentum that it gets back; here it stays apart, and acts at the end
    of an interval.)

    Args:
        params: parameters or groups; groups share `betas`, `lr` and `eps`.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: added to the square root of the second moment.
        weight_decay: of the weights themselves.
        replicas: the ranks (`parallel.replicas(model)`), each with all parameters.
        policy: which steps do what.
        masks: as in `OneBitAdam`.
        bias_correction: as in `FlatAdam`; of the variance by the number of its updates.
        scale: as in `OneBitAdam`.
        compiled: as in `FlatAdam`.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        replicas: Replicas,
        policy: Policy,
        masks: Masks | None = None,
        bias_correction: bool = True,
        scale: Scale = "l1",
        compiled: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, bias_correction=bias_correction, compiled=compiled
        )
        self.policy = policy
        self._replicas, self._masks, self._scale = replicas, dict(masks or {}), scale
        self._buffers: Buffers | None = None
        self._gradient: Tensor | None = None
        self._anchor: Tensor | None = None
        self._went = 0.0
        replicas.follow(lambda: self.policy.updates_variance(self._steps() + 1))

    @property
    def frozen(self) -> bool:
        """Whether the variance stays as it is."""
        return is_frozen(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, scale: float = 1.0) -> Any:
        """Update all parameters; every rank calls it.

        Args:
            closure: computes the loss again, as in torch.
            scale: factor of all gradients, the same on all ranks.
        """
        loss = computed_again(closure)
        allocate(self.state, parameters_of(self))
        begin(self)
        step = count(self, "step") + 1
        if self.frozen:
            self._go_alone(scale)
            if self.policy.communicates(step):
                self._meet()
        else:
            self._go_together(step, scale)
        advance(self)
        if step >= self.policy.var_freeze_step and not self.frozen:
            self._freeze(step)
        return loss

    def settle(self) -> None:
        """End the interval, and let all ranks owe in common what each owes; every rank calls it."""
        if not any(self.state.values()):
            return
        if self.frozen and self._went:
            self._meet()
        self._own_buffers(fresh=False).settle()

    def _steps(self) -> int:
        state = self.state[parameters_of(self)[0]]
        return int(state["step"]) if state else 0

    def _go_together(self, step: int, scale: float) -> None:
        """A step whose gradient all ranks know, exactly or by signs."""
        buffers = self._own_buffers(fresh=step == 1)
        beta1, beta2 = one_setting(self, "betas")
        gradient = torch.zeros_like(buffers.momentum) if self._gradient is None else self._gradient
        self._gradient = gradient
        self._replicas.add_gradients(gradient, 0.0, scale)
        momentum, variance = buffers.momentum, buffers.own("exp_avg_sq")
        if self.policy.updates_variance(step):
            variance.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        else:
            buffers.compressed(gradient, name="gradients")
            gradient.mul_(variance != 0)  # a sign where there never was a gradient
        momentum.lerp_(gradient, 1 - beta1)
        first = second = 1.0
        if self.bias_correction:
            first = 1 - beta1**step
            second = 1 - beta2 ** self.policy.variance_updates(step)
        follow(self, self._replicas, momentum / first, variance / second, {})

    def _freeze(self, steps: int) -> None:
        freeze(self, steps, self.policy.variance_updates(steps))
        self._gradient = None
        # What is compressed from now on is another quantity, so nothing is owed of it.
        self._own_buffers(fresh=True)

    def _go_alone(self, scale: float) -> None:
        buffers = self._own_buffers(fresh=False)
        beta1, _ = one_setting(self, "betas")
        if not self._went:
            self._anchor = self._weights()
        self._replicas.add_gradients(buffers.momentum, beta1, (1 - beta1) * scale)
        buffers.hold_still()
        follow(self, self._replicas, buffers.momentum, buffers.own("exp_avg_sq"), {}, decay=False)
        self._went += float(one_setting(self, "lr"))

    def _meet(self) -> None:
        """Average how far the ranks went since they last did."""
        buffers = self._own_buffers(fresh=False)
        anchor, went = self._anchor, self._went
        assert anchor is not None
        root = buffers.own("exp_avg_sq").sqrt().add_(float(one_setting(self, "eps")))
        moved = self._weights().sub_(anchor).mul_(root)
        buffers.compressed(moved, name="momentum")
        if buffers.mask is not None:
            moved.mul_(buffers.mask)
        torch.div(moved, -went, out=buffers.momentum)
        moved.div_(root)
        for group in self.param_groups:
            keep = 1 - float(group["weight_decay"]) * went
            for parameter in group["params"]:
                place = self._replicas.place(parameter)
                plain(local(parameter)).copy_(anchor[place].mul_(keep).add_(moved[place]))
        self._anchor, self._went = None, 0.0

    def _weights(self) -> Tensor:
        """All weights, in the order of the buffer."""
        flat = torch.zeros(self._replicas.total, device=parameters_of(self)[0].device)
        for parameter in parameters_of(self):
            flat[self._replicas.place(parameter)] = plain(local(parameter))
        return flat

    def _own_buffers(self, *, fresh: bool) -> Buffers:
        if self._buffers is None:
            compressed = self._replicas.compressed(scale=self._scale)
            self._buffers = Buffers(self, self._replicas, self._masks, compressed)
        if self._buffers.adopt(("exp_avg", "exp_avg_sq"), fresh=fresh):
            self._anchor, self._went = None, 0.0
        return self._buffers
