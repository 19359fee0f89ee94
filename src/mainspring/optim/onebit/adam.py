"""1-bit Adam: Adam until the variance has settled, then momenta that travel as signs (arXiv 2102.02888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mainspring.numerics.signs import Scale
from mainspring.optim.flat import FlatAdam
from mainspring.optim.onebit.buffers import Buffers, Masks, count, one_setting
from mainspring.optim.onebit.settled import Settled, ends_warm_up
from mainspring.optim.onebit.stage import Sends, advance, begin, follow, freeze, is_frozen, sends_directions
from mainspring.optim.replicas import Replicas
from mainspring.optim.states import allocate, computed_again, parameters_of


class OneBitAdam(FlatAdam):
    """1-bit Adam (Tang et al. 2021, arXiv 2102.02888, algorithm 1), with AdamW's decay of weights.

    For `freeze_step` steps it is AdamW, with gradients joined by the ranks as usual. Then the variance v
    stays as it is and gradients are not joined any more; rank i with gradient g_i does

        m_i = b1 m + (1 - b1) g_i      m = the compressed mean of all m_i      p -= lr m / (sqrt(v) + eps)

    The signs of a message have one length, and a tensor's momenta have not: of a coordinate whose v is far
    below the others' the paper's message is noise over a small root, and it moves at random (rows of rare
    words). With `sends = "directions"` what is compressed is m_i / (sqrt(v) + eps), which v makes alike in
    size; v is the same on all ranks, and the mean is multiplied by the root again.

    A coordinate whose v is 0 at the freeze never had a gradient (positions beyond the rows' length, say).
    Signs have no 0, so its momentum would be noise, over an eps: it is held at 0.

    Args:
        params: parameters or groups; groups share `betas` and `eps`.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: added to the square root of the second moment.
        weight_decay: of the weights themselves.
        replicas: the ranks (`parallel.replicas(model)`).
        freeze_step: steps of the warm-up, commonly 15 to 25 % of a run and past that of the learning rate; or
            what tells that the variance has settled.
        masks: further coordinates to hold still, 0 of a parameter's mask; they are given anew to a run that
            is taken up again.
        sends: what is compressed; "momenta" are the original's.
        bias_correction: as in `FlatAdam`; the correction of the last step of the warm-up is frozen with v.
            (DeepSpeed's had none.)
        scale: length of a message's signs; "l2" is the original's, and no contraction (`numerics.signs`).
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
        freeze_step: int | Settled,
        masks: Masks | None = None,
        sends: Sends = "momenta",
        bias_correction: bool = True,
        scale: Scale = "l1",
        compiled: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, bias_correction=bias_correction, compiled=compiled
        )
        self.freeze_step = freeze_step
        self._replicas, self._masks, self._scale = replicas, dict(masks or {}), scale
        self._sends = sends
        self._buffers: Buffers | None = None
        self._widths: Tensor | None = None
        replicas.follow(lambda: not self.frozen)

    @property
    def frozen(self) -> bool:
        """Whether the warm-up is over."""
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
        if self.frozen:
            self._follow_momentum(scale)
            return loss
        self.prepare(scale=scale)()
        steps = count(self, "step")
        if ends_warm_up(self, self._replicas, steps, self.freeze_step):
            freeze(self, steps, steps, self._sends)
            self._own_buffers(fresh=True)
        return loss

    def settle(self) -> None:
        """Let all ranks owe in common what each owes, so that states may be saved; every rank calls it."""
        if self.frozen:
            self._own_buffers(fresh=False).settle()

    def _own_buffers(self, *, fresh: bool) -> Buffers:
        if self._buffers is None:
            compressed = self._replicas.compressed(scale=self._scale)
            self._buffers = Buffers(self, self._replicas, self._masks, compressed)
        if self._buffers.adopt(("exp_avg", "exp_avg_sq"), fresh=fresh):
            self._widths = self._buffers.widths() if sends_directions(self) else None
        return self._buffers

    def _follow_momentum(self, scale: float) -> None:
        buffers = self._own_buffers(fresh=False)
        beta1, _ = one_setting(self, "betas")
        self._replicas.add_gradients(buffers.momentum, beta1, (1 - beta1) * scale)
        self._compress(buffers, self._widths)
        follow(self, self._replicas, buffers.own("exp_avg"), buffers.own("exp_avg_sq"), {})
        advance(self)

    @staticmethod
    def _compress(buffers: Buffers, widths: Tensor | None) -> None:
        """Replace momenta by their mean, sent over `widths` [total], where given."""
        momentum = buffers.momentum
        if widths is not None:
            buffers.hold_still()  # over a root of 0 a momentum would drown the others
            momentum.div_(widths)
        buffers.compressed(momentum, name="momentum")
        if widths is not None:
            momentum.mul_(widths)
        buffers.hold_still()
