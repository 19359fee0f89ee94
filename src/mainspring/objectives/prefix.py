"""Prefix language modelling on pairs: the loss is on the target alone.

A source that sees itself whole is the prefix of Raffel et al. 2020 (arXiv 1910.10683), section 3.2.1; one
that is read from left to right is how Turing-NLG and GPT-2 are fine-tuned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.data.pair_batch import pairs_of
from mainspring.data.token_row import TokenRow, collate, token_row
from mainspring.objectives.base import LabelledView, Views
from mainspring.objectives.config import PrefixConfig
from mainspring.objectives.replacement import required
from mainspring.objectives.words import Vocabulary


class PrefixLM(LabelledView):
    """Cross entropy of the target's tokens and of the separator after them, given the source.

    Raises:
        ConfigError: the tokenizer has nothing that ends a text.
    """

    NAME = "prefix"

    def __init__(self, config: PrefixConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self._end = required(vocabulary.separator, "separator", config.kind)
        self._pad = vocabulary.pad

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Rows `source target` of a batch of pairs; no chance is involved."""
        rows = [self._row(source, target) for source, target in pairs_of(batch)]
        return {self.NAME: collate(rows, pad=self._pad, device=batch.ids.device)}

    def _row(self, source: TokenRow, target: TokenRow) -> TokenRow:
        given = source.ids[: self.config.max_source]
        asked = target.ids[: self.config.max_target]
        index = np.arange(len(given) + len(asked))
        ranks = np.maximum(index - len(given) + 1, 0) if self.config.bidirectional else index
        row = token_row(np.concatenate([given, asked]), rank=ranks)
        # The last token of the source predicts the first of the target; the target's last, the end.
        labels = np.concatenate([np.full(len(given) - 1, IGNORE), asked, [self._end]])
        kinds = (index >= len(given)).astype(np.int64)
        return row._replace(labels=labels, type=kinds)
