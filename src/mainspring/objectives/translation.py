"""Translation language modelling: masked words may be looked up in the translation.

Conneau and Lample 2019 (XLM, arXiv 1901.07291), section 3.3; without restart of positions as in InfoXLM (Chi
et al. 2021, arXiv 2007.07834), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainspring.data.batch import TokenBatch
from mainspring.data.pair_batch import packed_pairs_of
from mainspring.data.token_row import Bools, TokenRow, collate
from mainspring.data.translation_pair import translation_rows
from mainspring.objectives.base import LabelledView, Views, check_generators
from mainspring.objectives.config import TranslationConfig
from mainspring.objectives.masked import mask_row
from mainspring.objectives.replacement import Replacement, required
from mainspring.objectives.words import Vocabulary


class TranslationLM(LabelledView):
    """Cross entropy of tokens hidden in both texts of a pair, each seeing both texts.

    Raises:
        ConfigError: the tokenizer has no mask, or nothing that ends a text.
    """

    NAME = "tlm"

    def __init__(self, config: TranslationConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._separator = required(vocabulary.separator, "separator", config.kind)
        self._replacement = Replacement(config, vocabulary, config.kind)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Join and hide the pairs of every row; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        rows = [self._row(pairs, rng) for pairs, rng in zip(packed_pairs_of(batch), rngs, strict=True)]
        return {self.NAME: collate(rows, pad=self.vocabulary.pad, device=batch.ids.device)}

    def _row(self, pairs: list[tuple[TokenRow, TokenRow]], rng: np.random.Generator) -> TokenRow:
        row = translation_rows(
            pairs, self.vocabulary.first, self._separator, reset_positions=self.config.reset_positions
        )
        hidden = uniform_choice(row, self.vocabulary, self.config.rate, rng)
        return row.hide(hidden, self._replacement.draw(row.ids[hidden], rng))


def uniform_choice(row: TokenRow, vocabulary: Vocabulary, rate: float, rng: np.random.Generator) -> Bools:
    """Tokens to hide, one by one and each with the same chance: bool [T]. Special ones are never hidden."""
    return mask_row(np.ones(row.length, bool), ~vocabulary.special[row.ids], rate, 1, rng, doc=row.doc)
