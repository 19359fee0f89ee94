"""The losses that layers with experts bring along, beside whatever a model is trained for.

Fedus et al. 2021 (Switch, arXiv 2101.03961), section 2.2: they are added to the objective, summed over the
layers. They are means over a micro-batch, and no sums over tokens (the product of two means is none); so a
micro-batch counts with its number of rows, and the mean is over the rows of all ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.nn.config import ExpertLayers
from mainspring.nn.transformer import Output
from mainspring.objectives.base import Loss, Objective, Views, passes


class WithAuxiliary:
    """An objective's losses, with the auxiliary ones of every forward that it makes with a gradient.

    Args:
        objective: what is trained for.
        experts: says their weights; a loss of weight 0 is left out.
    """

    NAMES = ("experts.balance", "experts.z")

    def __init__(self, objective: Objective, experts: ExpertLayers) -> None:
        self.objective = objective
        weights = (experts.balance_weight, experts.z_weight)
        self._weights = {
            name: (place, weight)
            for place, (name, weight) in enumerate(zip(self.NAMES, weights, strict=True))
            if weight
        }

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """The objective's views."""
        return self.objective.build(batch, rngs)

    def counts(self, views: Views) -> dict[str, int]:
        """The objective's, and the rows for each auxiliary loss."""
        return self.objective.counts(views) | dict.fromkeys(self._weights, _rows(views))

    def passes(self, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
        """The objective's; each brings the auxiliary losses of its forwards."""

        def heard(run: Callable[[], dict[str, Loss]]) -> Callable[[], dict[str, Loss]]:
            return lambda: self._hear(run, model, _rows(views))

        return [heard(run) for run in passes(self.objective, model, views)]

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """All losses."""
        return self._hear(lambda: self.objective.loss(model, views), model, _rows(views))

    def _hear(self, run: Callable[[], dict[str, Loss]], model: nn.Module, rows: int) -> dict[str, Loss]:
        with _listening(model) as found:
            losses = run()
        total = torch.stack(found).sum(0) * rows if found else None
        for name, (place, weight) in self._weights.items():
            if total is not None:
                losses[name] = Loss(total[place], weight, rows)
        return losses


def with_auxiliary(objective: Objective, experts: ExpertLayers | None) -> Objective:
    """The objective for a model with these layers of experts; itself where there are none to keep busy."""
    if experts is None or not (experts.balance_weight or experts.z_weight):
        return objective
    return WithAuxiliary(objective, experts)


@contextmanager
def _listening(model: nn.Module) -> Iterator[list[Tensor]]:
    """Auxiliary losses of the model's forwards meanwhile, each [2]."""
    found: list[Tensor] = []

    def listen(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Output) and output.auxiliary is not None and output.auxiliary.requires_grad:
            found.append(output.auxiliary)

    handle = model.register_forward_hook(listen)
    try:
        yield found
    finally:
        handle.remove()


def _rows(views: Views) -> int:
    return max(view.ids.shape[0] for view in views.values())
