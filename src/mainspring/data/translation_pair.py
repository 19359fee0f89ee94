"""Texts and their translations in one row, for objectives that look across languages.

Conneau and Lample 2019 (XLM, arXiv 1901.07291), section 3.3: both sentences between separators, the
translation's positions beginning again at 0, and a language for each token. InfoXLM and XLM-E (Chi et al.
2021) join the two and let positions go on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainspring.data.pair_batch import Sides
from mainspring.data.token_row import Ints, TokenRow, join, token_row


def translation_row(
    sides: Sides, first: int | None, separator: int, *, reset_positions: bool, doc: int = 0
) -> TokenRow:
    """`</s> A </s> </s> B </s>` with positions that begin again at B, or `<s> A </s> B </s>` with positions
    that go on.

    Args:
        sides: bare tokens of the two, each of one language.
        first: begins the row where positions go on (None: nothing does).
        separator: ends each sentence, and begins it where positions begin again.
        reset_positions: which of the two.
        doc: number of the pair in its row.

    Returns:
        A row in which everything sees everything, [S + T + 4] or [S + T + 3].
    """
    source, target = sides
    opening = [separator] if reset_positions else [] if first is None else [first]
    one = token_row(_enclosed(opening, source.ids, separator), lang=int(source.lang[0]), doc=doc)
    two = token_row(
        _enclosed([separator] if reset_positions else [], target.ids, separator),
        start=0 if reset_positions else one.length,
        lang=int(target.lang[0]),
        doc=doc,
    )
    return join([one, two])


def translation_rows(
    pairs: Sequence[Sides], first: int | None, separator: int, *, reset_positions: bool
) -> TokenRow:
    """The pairs of a row, one after another; none sees another."""
    return join(
        [
            translation_row(sides, first, separator, reset_positions=reset_positions, doc=doc)
            for doc, sides in enumerate(pairs)
        ]
    )


def sentence_row(parts: Sequence[TokenRow], first: int | None, separator: int) -> TokenRow:
    """`<s> A </s> B </s> ...`: sentences that see one another, each with its language; positions go on."""
    opening = [] if first is None else [first]
    rows: list[TokenRow] = []
    at = 0
    for index, part in enumerate(parts):
        ids = _enclosed(opening if index == 0 else [], part.ids, separator)
        rows.append(token_row(ids, start=at, lang=int(part.lang[0])))
        at += len(ids)
    return join(rows)


def mixed_sides(pairs: Sequence[Sides], rng: np.random.Generator) -> tuple[list[TokenRow], list[TokenRow]]:
    """The two sides of a row's pairs, each in an order of its own, and either one first.

    Chi et al. 2021, section 3.3 (mixup contrast): with two pairs three bits of chance decide, over the order
    of the sources, the order of the targets, and which side is the query.
    """
    sides = [[pair[k] for pair in pairs] for k in (0, 1)]
    orders = [rng.permutation(len(pairs)) for _ in sides]
    one, two = ([side[int(i)] for i in order] for side, order in zip(sides, orders, strict=True))
    return (two, one) if rng.random() < 0.5 else (one, two)


def _enclosed(opening: list[int], ids: Ints, separator: int) -> Ints:
    return np.concatenate([opening, ids, [separator]]).astype(np.int64)
