"""Sequence to sequence with one stack: the three modes of UniLM's fine-tuning.

Dong et al. 2019 (UniLM, arXiv 1905.03197), section 2.5, and the published code of s2s-ft (mode 2 is Bao et
al. 2020, section 3.4), whose label smoothing leaves the padding token out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from mainspring.data import seq2seq
from mainspring.data.batch import TokenBatch
from mainspring.data.pair_batch import pairs_of
from mainspring.data.token_row import TokenRow, collate
from mainspring.objectives.base import Loss, Views, check_generators, labelled
from mainspring.objectives.config import Seq2SeqConfig
from mainspring.objectives.cross_entropy import smoothed_cross_entropy
from mainspring.objectives.replacement import Replacement, required
from mainspring.objectives.words import Vocabulary


class Seq2Seq:
    """Smoothed cross entropy of the target's tokens and of the separator after them, given the source.

    Raises:
        ConfigError: the tokenizer has no mask or nothing that ends a text.
    """

    NAME = "s2s"

    def __init__(self, config: Seq2SeqConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self._first = vocabulary.first
        self._separator = required(vocabulary.separator, "separator", config.kind)
        self._pad = vocabulary.pad
        self._replacement = Replacement(config, vocabulary, config.kind)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Lay out every pair of a batch as the mode says; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        pairs = zip(pairs_of(batch), rngs, strict=True)
        rows = [self._row(source, target, rng) for (source, target), rng in pairs]
        return {self.NAME: collate(rows, pad=self._pad, device=batch.ids.device)}

    def counts(self, views: Views) -> dict[str, int]:
        """Number of predicted tokens."""
        return {self.NAME: int(labelled(views[self.NAME]).sum())}

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Summed divergence from the smoothed labels, in nats."""
        view = views[self.NAME]
        assert view.labels is not None
        where = labelled(view)
        out = model(view, select=where, columns="own")
        smoothing, labels = self.config.label_smoothing, view.labels[where]
        total = smoothed_cross_entropy(out.logits, labels, smoothing, self._pad, out.vocabulary)
        return {self.NAME: Loss(total, 1.0, int(where.sum()))}

    def _row(self, source: TokenRow, target: TokenRow, rng: np.random.Generator) -> TokenRow:
        config, draw = self.config, self._replacement.draw
        given = seq2seq.source_row(
            source.ids[: config.max_source],
            self._first,
            self._separator,
            type=config.source_type,
            lang=int(source.lang[0]),
        )
        asked = seq2seq.target_row(
            seq2seq.framed(target.ids[: config.max_target], None, self._separator),
            given.length,
            type=config.target_type,
            lang=int(target.lang[0]),
        )
        chosen = rng.random(asked.length) < config.target_mask_rate
        if config.mode == "masked":
            if not chosen.any():
                chosen[rng.integers(asked.length)] = True
            return seq2seq.masked(given, asked, chosen, draw(asked.ids[chosen], rng))
        noisy = asked.ids.copy()
        noisy[chosen] = draw(asked.ids[chosen], rng)
        if config.mode == "shift":
            return seq2seq.shifted(given, asked, self._separator, noisy)
        return seq2seq.pseudo_masked(given, asked, noisy, draw(asked.ids, rng))
