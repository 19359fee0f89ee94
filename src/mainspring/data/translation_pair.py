"""A text and its translation in one row, for translation language modelling.

Conneau and Lample 2019 (XLM, arXiv 1901.07291), section 3.3: both sentences between separators, the
translation's positions beginning again at 0, and a language for each token. InfoXLM and XLM-E (Chi et al.
2021) join the two and let positions go on.
"""

from __future__ import annotations

import numpy as np

from mainspring.data.token_row import Ints, TokenRow, join, token_row


def translation_row(source: TokenRow, target: TokenRow, first: int | None, separator: int, *,
                    reset_positions: bool) -> TokenRow:
    """`</s> A </s> </s> B </s>` with positions that begin again at B, or `<s> A </s> B </s>` with positions
    that go on.

    Args:
        source, target: bare tokens, each of one language.
        first: begins the row where positions go on (None: nothing does).
        separator: ends each sentence, and begins it where positions begin again.
        reset_positions: which of the two.

    Returns:
        A row in which everything sees everything, [S + T + 4] or [S + T + 3].
    """
    langs = [int(side.lang[0]) for side in (source, target)]
    opening = [separator] if reset_positions else [] if first is None else [first]
    one = token_row(_enclosed(opening, source.ids, separator), lang=langs[0])
    start = 0 if reset_positions else one.length
    two = token_row(
        _enclosed([separator] if reset_positions else [], target.ids, separator), start=start, lang=langs[1]
    )
    return join([one, two])


def _enclosed(opening: list[int], ids: Ints, separator: int) -> Ints:
    return np.concatenate([opening, ids, [separator]]).astype(np.int64)
