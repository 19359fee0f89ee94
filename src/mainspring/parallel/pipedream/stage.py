"""One stage of a pipeline: forward and backward passes of minibatches that are in flight together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mainspring.errors import PlanError
from mainspring.parallel.pipedream.versions import Versions

Tensors = Tensor | tuple[Tensor, ...]
Loss = Callable[..., Tensor]
"""(what the last stage gives, targets) -> scalar."""


class Passed(NamedTuple):
    """What is kept of a minibatch between its passes."""

    version: int
    inputs: tuple[Tensor, ...]
    """Those from the stage before that take a gradient."""
    outputs: tuple[Tensor, ...]
    """Those that give one; on the last stage the loss."""


class Stage:
    """A module whose minibatches go forward and backward in turn, each with one version of the weights.

    Args:
        module: takes and gives a tensor or a tuple of tensors.
        versions: of its weights.
        loss: on the last stage.
    """

    def __init__(self, module: nn.Module, versions: Versions, loss: Loss | None) -> None:
        self.module, self.versions, self.loss = module, versions, loss
        self.in_flight: dict[int, Passed] = {}
        self.most_in_flight = 0

    def forward(
        self,
        index: int,
        version: int,
        inputs: Sequence[Tensor],
        wants: Sequence[bool],
        targets: object = None,
    ) -> tuple[Tensor, ...]:
        """Carry a minibatch forward.

        Args:
            index: number of the minibatch.
            version: of the weights.
            inputs: of the module.
            wants: of each whether the stage before takes a gradient for it.
            targets: for the loss.

        Returns:
            What the module gives, with its graph; on the last stage the loss.
        """
        leaves = tuple(
            x.detach().requires_grad_() if wanted else x for x, wanted in zip(inputs, wants, strict=True)
        )
        self.versions.hold(version)
        with self.versions.using(version):
            given: Tensors = self.module(*leaves)
            if self.loss is not None:
                outputs: tuple[Tensor, ...] = (self.loss(given, targets),)
            else:
                outputs = given if isinstance(given, tuple) else (given,)
        if not all(isinstance(out, Tensor) for out in outputs):
            raise PlanError(
                f"a stage passes on a tensor or a tuple of tensors, not {[type(o).__name__ for o in outputs]}"
            )
        asked = tuple(leaf for leaf, wanted in zip(leaves, wants, strict=True) if wanted)
        self.in_flight[index] = Passed(version, asked, tuple(out for out in outputs if out.requires_grad))
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        return outputs

    def backward(self, index: int, gradients: Sequence[Tensor]) -> tuple[int, tuple[Tensor, ...]]:
        """Carry a minibatch backward; what its weights get stays at its version, which stays held.

        Args:
            index: number of the minibatch.
            gradients: of those outputs that have a graph; none for the loss.

        Returns:
            Its version, and gradients of the inputs that asked for one.
        """
        version, inputs, outputs = self.in_flight.pop(index)
        if outputs:
            with self.versions.using(version):
                torch.autograd.backward(outputs, None if self.loss is not None else tuple(gradients))
        return version, tuple(torch.zeros_like(x) if x.grad is None else x.grad for x in inputs)
