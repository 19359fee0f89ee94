"""Any optimizer on every rank's own gradients, its steps joined by Adasum (arXiv 2006.02924)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from mainspring.optim.replicas import Replicas, shaped
from mainspring.optim.runs import local, plain
from mainspring.optim.states import computed_again, parameters_of


class AdasumOptimizer(torch.optim.Optimizer):
    """Steps `inner` on this rank's own gradients and joins what ranks did by Adasum, layer by layer.

    On "deltas" every rank makes its step and the steps are joined (the paper's way with Adam and LAMB, whose
    moments are each rank's own); on "gradients" the gradients are joined and the step follows, the same on
    all ranks (with SGD). A learning rate that suits one rank's batch then suits any number of them.

    Args:
        inner: any optimizer of whole fp32 parameters.
        replicas: the ranks (`parallel.replicas(model)` of a plan with communication = "adasum").
        on: what is joined.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        replicas: Replicas,
        *,
        on: Literal["deltas", "gradients"] = "deltas",
    ) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self._replicas, self._on = inner, replicas, on
        self.param_groups = inner.param_groups
        self.state = inner.state
        self._buffer = torch.zeros(replicas.total, device=parameters_of(inner)[0].device)
        replicas.follow(lambda: False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; every rank calls it.

        Args:
            closure: computes the loss again, as in torch.
        """
        loss = computed_again(closure)
        self._replicas.add_gradients(self._buffer, 0.0, 1.0)
        if self._on == "gradients":
            self._replicas.adasum(self._buffer)
            self._show_gradients()
            self.inner.step()
            return loss
        self._show_gradients()
        weights = [plain(local(p)) for p in parameters_of(self)]
        before = [weight.clone() for weight in weights]
        self.inner.step()
        for parameter, weight, was in zip(parameters_of(self), weights, before, strict=True):
            torch.sub(weight, was, out=self._part(parameter))
        self._replicas.adasum(self._buffer)
        for parameter, weight, was in zip(parameters_of(self), weights, before, strict=True):
            torch.add(was, self._part(parameter), out=weight)
        return loss

    @torch.no_grad()
    def settle(self) -> None:
        """Replace moments by their means over ranks, so that states may be saved; every rank calls it."""
        moments = [
            value
            for parameter in parameters_of(self)
            for key, value in self.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step"
        ]
        if moments and self._on == "deltas":
            self._replicas.average(moments, name="moments")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, into the inner optimizer as well."""
        self.inner.load_state_dict(state_dict)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def _part(self, parameter: torch.nn.Parameter) -> Tensor:
        return self._buffer[self._replicas.place(parameter)]

    def _show_gradients(self) -> None:
        for parameter in parameters_of(self):
            if parameter.grad is not None or self._on == "gradients":
                flat = self._part(parameter)
                parameter.grad = shaped(flat, parameter)
