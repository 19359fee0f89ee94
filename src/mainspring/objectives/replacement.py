"""What stands in place of a token that is to be predicted: a mask, another token, or itself.

Devlin et al. 2019 (BERT), section 3.1: 80 %, 10 %, 10 %.
"""

from __future__ import annotations

import numpy as np

from mainspring.errors import ConfigError
from mainspring.objectives.config import ReplacementConfig
from mainspring.objectives.words import Ints, Vocabulary


class Replacement:
    """Draws replacements, by the shares that `config` states."""

    def __init__(self, config: ReplacementConfig, vocabulary: Vocabulary, kind: str) -> None:
        self.mask = required(vocabulary.mask, "mask", kind)
        self._config = config
        self._ordinary = np.flatnonzero(~vocabulary.special)

    def draw(self, hidden: Ints, rng: np.random.Generator) -> Ints:
        """What replaces the tokens `hidden` [N]: [N]."""
        draw = rng.random(len(hidden))
        random = self._ordinary[rng.integers(len(self._ordinary), size=len(hidden))]
        masked = draw < self._config.mask_share
        swapped = ~masked & (draw < self._config.mask_share + self._config.random_share)
        return np.where(masked, self.mask, np.where(swapped, random, hidden))


def required(token: int | None, name: str, kind: str) -> int:
    """The id of a special token that an objective cannot do without.

    Raises:
        ConfigError: the tokenizer has none.
    """
    if token is None:
        raise ConfigError(
            f"objective.kind = {kind!r}: the tokenizer has no {name} token; "
            "train a WordPiece tokenizer, or use objective.kind = 'clm'"
        )
    return token
