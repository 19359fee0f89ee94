"""Pairs of texts as rows: the tokens of the source (type 0), then those of the target (type 1), bare.

What stands around and between them, positions and ranks are the business of the objective's builder. A pair
is a translation, a document and its summary, a question and its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mainspring.data.batch import TokenBatch
from mainspring.data.token_row import Ints, TokenRow, collate, join, rows_of, token_row
from mainspring.errors import DataError


class TextPair(NamedTuple):
    """Tokens of a source and its target."""

    source: Sequence[int] | Ints
    target: Sequence[int] | Ints
    source_lang: int = 0
    """Language index of the source."""
    target_lang: int = 0
    """Language index of the target."""


def pair_batch(pairs: Sequence[TextPair], *, pad: int = 0) -> TokenBatch:
    """Pairs as a batch, a pair a row.

    Raises:
        DataError: a source or target has no token.
    """
    rows = []
    for index, pair in enumerate(pairs):
        if len(pair.source) == 0 or len(pair.target) == 0:
            raise DataError(f"pair {index}: {'source' if len(pair.source) == 0 else 'target'} has no token")
        source = token_row(pair.source, lang=pair.source_lang)
        target = token_row(pair.target, lang=pair.target_lang, type=1)
        rows.append(join([source, target]))
    return collate(rows, pad=pad)


def pairs_of(batch: TokenBatch) -> list[tuple[TokenRow, TokenRow]]:
    """Source and target of every row of a batch of pairs.

    Raises:
        DataError: a row is no pair.
    """
    pairs = []
    for index, row in enumerate(rows_of(batch)):
        sides = row.take(row.type == 0), row.take(row.type == 1)
        if not sides[0].length or not sides[1].length:
            raise DataError(
                f"row {index} is no pair: {sides[0].length} tokens of type 0 (source), {sides[1].length} of "
                "type 1 (target); this objective reads pairs of texts, see mainspring.data.pairs"
            )
        pairs.append(sides)
    return pairs
