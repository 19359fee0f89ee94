"""Causal language modelling: predict each next token from what precedes it (Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainspring.data.batch import TokenBatch
from mainspring.objectives.base import LabelledView, Views


class CausalLM(LabelledView):
    """Cross entropy of the next token; the batch comes with its labels, set by the data loader."""

    NAME = "clm"

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """The batch is its own view; no chance is involved."""
        return {self.NAME: batch}
