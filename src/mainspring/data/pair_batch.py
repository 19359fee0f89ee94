"""Pairs of texts as rows: the tokens of the source (type 0), then those of the target (type 1), bare.

What stands around and between them, positions and ranks are the business of the objective's builder. A pair
is a translation, a document and its summary, a question and its answer. A row may hold several pairs, told
apart by their document number: neighbouring lines of a translated text, say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


Sides = tuple[TokenRow, TokenRow]
"""Source and target of a pair."""


def pair_batch(pairs: Sequence[TextPair], *, per_row: int = 1, pad: int = 0) -> TokenBatch:
    """Pairs as a batch, `per_row` of them a row (the last row may have fewer).

    Raises:
        DataError: a source or target has no token.
    """
    rows = []
    for start in range(0, len(pairs), per_row):
        parts = []
        for doc, pair in enumerate(pairs[start : start + per_row]):
            if len(pair.source) == 0 or len(pair.target) == 0:
                side = "source" if len(pair.source) == 0 else "target"
                raise DataError(f"pair {start + doc}: {side} has no token")
            parts.append(token_row(pair.source, lang=pair.source_lang, doc=doc))
            parts.append(token_row(pair.target, lang=pair.target_lang, type=1, doc=doc))
        rows.append(join(parts))
    return collate(rows, pad=pad)


def packed_pairs_of(batch: TokenBatch) -> list[list[Sides]]:
    """All pairs of every row of a batch of pairs.

    Raises:
        DataError: a row is no pair.
    """
    rows = []
    for index, row in enumerate(rows_of(batch)):
        pairs = []
        for doc in np.unique(row.doc):
            here = row.doc == doc
            sides = row.take(here & (row.type == 0)), row.take(here & (row.type == 1))
            if not sides[0].length or not sides[1].length:
                raise DataError(
                    f"row {index} is no pair: {sides[0].length} tokens of type 0 (source), "
                    f"{sides[1].length} of type 1 (target); this objective reads pairs of texts, see "
                    "mainspring.data.pairs"
                )
            pairs.append(sides)
        rows.append(pairs)
    return rows


def pairs_of(batch: TokenBatch) -> list[Sides]:
    """Source and target of every row of a batch with one pair a row.

    Raises:
        DataError: a row is no pair, or several.
    """
    rows = packed_pairs_of(batch)
    for index, pairs in enumerate(rows):
        if len(pairs) != 1:
            raise DataError(f"row {index} holds {len(pairs)} pairs; this objective reads one a row")
    return [pairs[0] for pairs in rows]
