"""Causal language modelling: predict each next token from what precedes it (Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from mainspring.data.batch import TokenBatch
from mainspring.objectives.base import Loss, Views, labelled, labelled_loss


class CausalLM:
    """Cross entropy of the next token; the batch comes with its labels, set by the data loader."""

    NAME = "clm"

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """The batch is its own view; no chance is involved."""
        return {self.NAME: batch}

    def counts(self, views: Views) -> dict[str, int]:
        """Number of labelled tokens."""
        return {self.NAME: int(labelled(views[self.NAME]).sum())}

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Summed cross entropy, in nats."""
        total = labelled_loss(model, views[self.NAME])
        return {self.NAME: Loss(total, 1.0, self.counts(views)[self.NAME])}
