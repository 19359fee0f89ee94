"""The shape of an objective: `build(batch) -> views`, `loss(model, views) -> {name: Loss}`.

A loss is a sum over its terms, never a mean: only the trainer knows how many terms all ranks and
micro-batches have together, and it alone divides. So the result does not depend on how a batch was split.

Every term is told by a label of a view: views that have lost all their labels run as others do and count
nothing. So ranks that read different rows can run the same networks in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.nn.transformer import Transformer
from mainspring.objectives.cross_entropy import summed_cross_entropy

Views = dict[str, TokenBatch]
"""What the model is run on, by name; every view has its labels."""


@dataclass(frozen=True)
class Loss:
    """One loss of an objective on one micro-batch."""

    total: Tensor
    """Sum over the terms, fp32 scalar."""
    weight: float
    """Share of this loss in the objective; the objective is sum_k weight_k * mean_k."""
    count: int
    """Number of terms in `total`."""


@runtime_checkable
class Objective(Protocol):
    """Something to train for. Its methods are pure: the same arguments give the same result on every rank."""

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Make the views of a batch [B, T]; `rngs` holds one generator a row, the only source of chance."""
        ...

    def counts(self, views: Views) -> dict[str, int]:
        """Number of terms of each loss, known before the model has run."""
        ...

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Run the model and return its losses, by the names that `counts` uses."""
        ...


@runtime_checkable
class SeveralPasses(Protocol):
    """An objective whose losses go backward one after another, so that none waits with its activations."""

    def passes(self, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
        """What to run, in this order, each backward before the next; together they are `loss`."""
        ...


@runtime_checkable
class OwnsModules(Protocol):
    """An objective with parameters of its own, which are sharded, optimised and saved with the network's."""

    def assemble(self, network: Transformer) -> nn.Module:
        """What is trained: a module that holds the network. Made before the plan is applied."""
        ...

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's own weights, out of those of what `assemble` made."""
        ...


@runtime_checkable
class ComparesTexts(Protocol):
    """An objective that may want, with each row of text, another from elsewhere."""

    @property
    def wants_elsewhere(self) -> bool:
        """Whether it does: then a row's tokens of type 1 are the other's."""
        ...


Gather = Callable[[Tensor], Tensor]
"""Joins the parts [n, ...] of all ranks, whatever n is on each, in the order of the ranks."""


@runtime_checkable
class Evolves(Protocol):
    """An objective whose state goes on from step to step beside the optimizer's."""

    def start(self, model: nn.Module) -> None:
        """Set the state of a freshly initialised model (parameters may be DTensors)."""
        ...

    def after_step(self, model: nn.Module, gather: Gather, applied: bool) -> None:
        """Go on after an optimizer step, which was `applied`, or skipped because it was not finite."""
        ...


def passes(objective: Objective, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
    """Forwards of an objective, each to go backward before the next: of most there is one."""
    if isinstance(objective, SeveralPasses):
        return objective.passes(model, views)
    return [lambda: objective.loss(model, views)]


def assemble(objective: Objective, network: Transformer) -> nn.Module:
    """The module that is trained for an objective: the network, with what the objective owns."""
    return objective.assemble(network) if isinstance(objective, OwnsModules) else network


def network_state(objective: Objective, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's own weights, out of those of what was trained for an objective."""
    return objective.network_state(state) if isinstance(objective, OwnsModules) else state


def check_generators(batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> None:
    """Raise ValueError unless there is a generator for each row of a batch [B, T]."""
    if len(rngs) != batch.ids.shape[0]:
        raise ValueError(f"{batch.ids.shape[0]} rows need as many generators, not {len(rngs)}")


def labelled(view: TokenBatch) -> Tensor:
    """Where a view has a label: bool [B, T].

    Raises:
        ValueError: the view carries no labels at all.
    """
    if view.labels is None:
        raise ValueError("the view has no labels; an objective's build() has to set them")
    return view.labels != IGNORE


def labelled_loss(model: nn.Module, view: TokenBatch) -> Tensor:
    """Sum of the cross entropies at the labels of `view`, in fp32: scalar, in nats.

    Where few tokens have a label, logits are computed only there (the head is the widest matrix of a small
    model). Where nearly all have, the few are computed too and left out: cheaper than gathering the others.
    """
    where = labelled(view)
    assert view.labels is not None
    if float(where.float().mean()) > 0.9:
        out = model(view, columns="own")
        logits, labels = out.logits.flatten(0, 1), view.labels.flatten()
    else:
        out = model(view, select=where, columns="own")
        logits, labels = out.logits, view.labels[where]
    return summed_cross_entropy(logits, labels, out.vocabulary)


class LabelledView:
    """Counts and loss of an objective that has one view and predicts at its labels."""

    NAME: ClassVar[str]
    """Name of the view and of the loss."""

    def counts(self, views: Views) -> dict[str, int]:
        """Number of labelled tokens."""
        return {self.NAME: int(labelled(views[self.NAME]).sum())}

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Summed cross entropy at the labels, in nats."""
        return {self.NAME: Loss(labelled_loss(model, views[self.NAME]), 1.0, self.counts(views)[self.NAME])}
