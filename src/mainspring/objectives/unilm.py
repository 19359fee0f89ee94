"""UniLM v1's mixture: one network, and for each row of text one of four ways to read it.

Dong et al. 2019 (arXiv 1905.03197), sections 2.2 to 2.4: a third of the rows bidirectional, a third from a
source to a target, a sixth in each direction; 15 % of the tokens hidden, 80 % of the time one and else two or
three together. The next-sentence task that the paper adds to the bidirectional rows is left out, as in v2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from mainspring.data.batch import TokenBatch
from mainspring.data.directions import Direction, directed, documents, ends_of_targets
from mainspring.data.token_row import TokenRow, collate, join, rows_of
from mainspring.errors import ConfigError
from mainspring.objectives.base import LabelledView, Views, check_generators
from mainspring.objectives.config import UnilmConfig
from mainspring.objectives.masked import mask_row
from mainspring.objectives.replacement import Replacement, required
from mainspring.objectives.words import Vocabulary


class UnilmMixture(LabelledView):
    """Cross entropy of hidden tokens, each row read in a direction of its own.

    A row's documents get the special tokens of their layout; what then goes beyond the row's length is cut
    off, and documents of fewer than two tokens are left out.

    Raises:
        ConfigError: the tokenizer has no mask, no first token or no separator; or no direction has a share.
    """

    NAME = "unilm"

    def __init__(self, config: UnilmConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._first = required(vocabulary.first, "first ([CLS])", config.kind)
        self._separator = required(vocabulary.separator, "separator", config.kind)
        self._replacement = Replacement(config, vocabulary, config.kind)
        self._directions: tuple[Direction, ...] = get_args(Direction)
        shares = np.array([getattr(config, direction) for direction in self._directions])
        if shares.sum() <= 0:
            raise ConfigError("objective: bidirectional, seq2seq, left_to_right and right_to_left are all 0")
        self._law = shares / shares.sum()

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Direct and hide every row of a batch [B, T]; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        rows = [self._row(row, rng) for row, rng in zip(rows_of(batch), rngs, strict=True)]
        return {self.NAME: collate(rows, pad=self.vocabulary.pad, device=batch.ids.device)}

    def _row(self, row: TokenRow, rng: np.random.Generator) -> TokenRow:
        direction = self._directions[int(rng.choice(len(self._directions), p=self._law))]
        parts = [row.take(slice(0, 0))]
        for number, document in enumerate(documents(row)):
            ids = document.ids[~self.vocabulary.special[document.ids]]
            if len(ids) < 2:
                continue
            cut = int(rng.integers(1, len(ids)))
            parts.append(directed(ids, cut, direction, self._first, self._separator, number))
        laid = join(parts).take(slice(0, row.length))
        maskable = ~self.vocabulary.special[laid.ids] | ends_of_targets(laid)
        alone = np.ones(laid.length, bool)
        several = self.config.ngram_share / 2
        hidden = mask_row(
            alone,
            maskable,
            self.config.rate,
            3,
            rng,
            doc=laid.doc,
            shares=(1 - self.config.ngram_share, several, several),
        )
        return laid.hide(hidden, self._replacement.draw(laid.ids[hidden], rng))
