"""What a model loses on text: its own task's loss where it has a task, else how far its output has moved.

A causal model predicts the next token, one with a head for tokens those that are hidden (the same ones each
time); a bare encoder has no loss, so its hidden states are compared with those of the model as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.errors import DataError
from mainspring.nn.transformer import Transformer
from mainspring.objectives import MaskedConfig, MaskedLM, Vocabulary, labelled_loss

Kind = Literal["clm", "mlm", "distance"]


class Measure:
    """Losses of a model, and of what becomes of it, on calibration text.

    Args:
        model: as it is now, in evaluation.
        batches: text as the model reads it.
        causal: whether it predicts the next token.
        vocabulary: of its tokenizer (None: hidden tokens cannot be predicted).
    """

    def __init__(
        self,
        model: Transformer,
        batches: Sequence[TokenBatch],
        *,
        causal: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        if not batches:
            raise DataError("there is no text to measure a loss on")
        self.kind: Kind = "distance"
        self.views = list(batches)
        if causal:
            self.kind, self.views = "clm", [_shifted(batch) for batch in batches]
        elif model.config.head == "tokens" and vocabulary is not None and vocabulary.mask is not None:
            hide = MaskedLM(MaskedConfig(), vocabulary)
            self.kind = "mlm"
            self.views = [
                hide.build(b, [np.random.default_rng([i, r]) for r in range(len(b.ids))])["mlm"]
                for i, b in enumerate(batches)
            ]
        self._count = sum(int(_counted(view, self.kind).sum()) for view in self.views)
        with torch.no_grad():
            self._before = [self._hidden(model, v) if self.kind == "distance" else None for v in self.views]

    @torch.no_grad()
    def __call__(self, model: Transformer) -> float:
        """Mean loss a token, in nats; or mean squared distance of hidden states over their mean square."""
        return sum(float(self._sum(model, i)) for i in range(len(self.views))) / max(self._count, 1)

    def graded(self, model: Transformer, index: int) -> Tensor:
        """Something of batch `index` whose gradient tells what matters: the summed loss; of a bare encoder,
        whose distance has no gradient where it is 0, a random projection of its hidden states."""
        if self.kind != "distance":
            return self._sum(model, index)
        hidden = self._hidden(model, self.views[index])
        draw = torch.Generator().manual_seed(index)
        return (hidden * torch.randn(hidden.shape, generator=draw).to(hidden.device)).sum()

    def _sum(self, model: Transformer, index: int) -> Tensor:
        view, before = self.views[index], self._before[index]
        if before is None:
            return labelled_loss(model, view)
        moved = (self._hidden(model, view) - before).square().mean(-1)
        return (moved / before.square().mean(-1)).sum()

    @staticmethod
    def _hidden(model: Transformer, view: TokenBatch) -> Tensor:
        """Hidden states of the tokens that are none of padding, [N, D]."""
        nowhere = torch.zeros_like(view.ids, dtype=torch.bool)
        hidden: Tensor = model(view._replace(labels=None), select=nowhere).hidden
        return hidden[_counted(view, "distance")]


def _counted(view: TokenBatch, kind: Kind) -> Tensor:
    if kind != "distance":
        assert view.labels is not None
        return view.labels != IGNORE
    return torch.ones_like(view.ids, dtype=torch.bool) if view.valid is None else view.valid


def _shifted(batch: TokenBatch) -> TokenBatch:
    """The batch with the next token as each one's label."""
    labels = torch.full_like(batch.ids, IGNORE)
    labels[:, :-1] = batch.ids[:, 1:]
    if batch.valid is not None:
        labels[:, :-1] = labels[:, :-1].masked_fill(~batch.valid[:, 1:], IGNORE)
    return batch._replace(labels=labels)
