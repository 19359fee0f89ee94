"""Text and pairs in one step: an objective for the rows of each, every loss with its weight and its count.

So XLM-R's and InfoXLM's training adds translation language modelling and contrast on pairs to masked text
(Chi et al. 2021, arXiv 2007.07834, equation 9), XLM-E's adds TRTD to MRTD (Chi et al. 2022, arXiv 2106.16138,
section 3.2), and Z-code M3 denoises and translates (Kim et al. 2021, arXiv 2109.10465).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.data.token_row import TokenRow, collate, join, rows_of, token_row
from mainspring.errors import ConfigError
from mainspring.nn.transformer import Transformer
from mainspring.objectives.base import (
    ComparesTexts,
    Evolves,
    Gather,
    Loss,
    Objective,
    OwnsModules,
    Views,
    assemble,
    check_generators,
    network_state,
    passes,
)
from mainspring.objectives.config import MixedConfig
from mainspring.objectives.replaced import ReplacedTokens
from mainspring.objectives.words import Vocabulary

_STAND_IN = 8
"""Tokens of a text that stands for those of a kind of which there are none."""


class Mixed:
    """The losses of two objectives: `text.NAME` over rows of text, and `pairs.NAME` over rows of pairs.

    A row is of pairs if it has tokens of type 1. A micro-batch without rows of a kind runs the objective of
    that kind on a short row that counts nothing: what ranks run never depends on what they have read.

    Args:
        config: weights.
        text, pairs: the two.
        pad: fills rows up.

    Raises:
        ConfigError: both own modules, and not the same.
    """

    TEXT, PAIRS = "text", "pairs"

    def __init__(
        self, config: MixedConfig, text: Objective, pairs: Objective, vocabulary: Vocabulary
    ) -> None:
        self._parts: dict[str, tuple[Objective, float]] = {
            self.TEXT: (text, config.text_weight),
            self.PAIRS: (pairs, config.pairs_weight),
        }
        self._pad = vocabulary.pad
        self._token = int(vocabulary.special.argmin())
        self._owner = _owner(text, pairs)

    def assemble(self, network: Transformer) -> nn.Module:
        """The network with what one of the objectives, or both alike, put beside it."""
        return assemble(self._owner, network)

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's weights out of those of what was trained."""
        return network_state(self._owner, state)

    def start(self, model: nn.Module) -> None:
        """Set the state that goes on from step to step, where there is some."""
        if isinstance(self._owner, Evolves):
            self._owner.start(model)

    def after_step(self, model: nn.Module, gather: Gather, applied: bool) -> None:
        """Let that state go on."""
        if isinstance(self._owner, Evolves):
            self._owner.after_step(model, gather, applied)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """The views of both objectives, each of its rows; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        rows = rows_of(batch)
        paired = [bool((row.type == 1).any()) for row in rows]
        device = batch.ids.device
        views: Views = {}
        for kind, (objective, _) in self._parts.items():
            mine = [index for index, pair in enumerate(paired) if pair == (kind == self.PAIRS)]
            if mine:
                some = collate([rows[index] for index in mine], pad=self._pad, device=device)
                built = objective.build(some, [rngs[index] for index in mine])
            else:
                some = collate([self._stand_in(kind == self.PAIRS)], pad=self._pad, device=device)
                built = objective.build(some, [np.random.default_rng(0)])
                built = {name: _unlabelled(view) for name, view in built.items()}
            views |= {f"{kind}.{name}": view for name, view in built.items()}
        return views

    def counts(self, views: Views) -> dict[str, int]:
        """Number of terms of each loss."""
        return {
            f"{kind}.{name}": count
            for kind, (objective, _) in self._parts.items()
            for name, count in objective.counts(_of_kind(views, kind)).items()
        }

    def passes(self, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
        """Those of text, then those of pairs."""

        def weighted(
            run: Callable[[], dict[str, Loss]], kind: str, weight: float
        ) -> Callable[[], dict[str, Loss]]:
            return lambda: {
                f"{kind}.{name}": Loss(loss.total, weight * loss.weight, loss.count)
                for name, loss in run().items()
            }

        return [
            weighted(run, kind, weight)
            for kind, (objective, weight) in self._parts.items()
            for run in passes(objective, model, _of_kind(views, kind))
        ]

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """All losses, in nats."""
        losses: dict[str, Loss] = {}
        for run in self.passes(model, views):
            losses |= run()
        return losses

    def _stand_in(self, pair: bool) -> TokenRow:
        """A short row of text, or a pair of such."""
        text = token_row([self._token] * _STAND_IN, rank=np.arange(_STAND_IN))
        return join([text, text._replace(type=np.ones_like(text.type))]) if pair else text


def _owner(text: Objective, pairs: Objective) -> Objective:
    """The objective whose modules are trained with the network; `text` where there are none."""
    if isinstance(text, ComparesTexts) and text.wants_elsewhere:
        raise ConfigError(
            "objective.text.next_sentence_weight: beside pairs no text from elsewhere is read; set it to 0"
        )
    owners = [one for one in (pairs, text) if isinstance(one, OwnsModules)]
    replacing = [one for one in (text, pairs) if isinstance(one, ReplacedTokens)]
    if len(replacing) == 1:
        raise ConfigError(
            "objective: kind = 'rtd' trains a generator beside a model that finds replaced tokens and fills "
            "none, so text and pairs have to be of kind 'rtd' both"
        )
    if len(replacing) == 2:
        one, two = (r.config.model_dump(include={"embeddings", "generator"}) for r in replacing)
        for field in one:
            if one[field] != two[field]:
                raise ConfigError(
                    f"objective.text.{field} = {one[field]!r} and objective.pairs.{field} = {two[field]!r}: "
                    "text and pairs share one generator; give both the same"
                )
    return owners[0] if owners else text


def _of_kind(views: Mapping[str, TokenBatch], kind: str) -> Views:
    return {name.removeprefix(f"{kind}."): v for name, v in views.items() if name.startswith(f"{kind}.")}


def _unlabelled(view: TokenBatch) -> TokenBatch:
    return view if view.labels is None else view._replace(labels=torch.full_like(view.labels, IGNORE))
