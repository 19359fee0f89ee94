"""Eigenvalues of a run's layers, from gradients of its own micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mainspring import parallel
from mainspring.nn.init import stable_seed
from mainspring.objectives import Views
from mainspring.train.narrow.config import MixtureTraining
from mainspring.train.narrow.curvature import largest_eigenvalues
from mainspring.train.setup import Setup
from mainspring.train.step import Step


def layer_eigenvalues(
    setup: Setup,
    config: MixtureTraining,
    layers: Mapping[str, nn.Module],
    micro_batches: Sequence[Views],
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """Largest eigenvalues over the first micro-batch of every rank; gradients are cleared afterwards.

    Args:
        setup: the run's model, objective and optimizer.
        config: iterations and tolerance.
        layers: by name.
        micro_batches: this rank's of the step that is next.
        step: its number; every gradient has the chance of one seed, and so is of one function.
        device: where the model is.
    """
    model, seed = setup.model, stable_seed(setup.recipe.train.seed, "curvature", step)
    plain = Step(model, setup.objective, 0.0, device, setup.config.experts)

    def gradients() -> None:
        setup.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        plain.gradients(micro_batches[:1], lambda: False)

    shards = parallel.shards(model)
    named = {n: p for shard in shards for n, p in zip(shard.names, shard.pieces, strict=True)}
    named = named or dict(model.named_parameters())
    found = largest_eigenvalues(
        gradients,
        {layer: [p for n, p in named.items() if n.startswith(f"{layer}.")] for layer in layers},
        iterations=config.iterations,
        tolerance=config.tolerance,
        seed=seed,
        sums=parallel.piece_sum(model),
        changed=lambda: parallel.settle(model),
    )
    setup.optimizer.zero_grad(set_to_none=True)
    plain.finish(applied=False)
    return found
