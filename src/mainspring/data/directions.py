"""Text read in both directions, forward, backward, or from a source to a target: ranks and segments.

Dong et al. 2019 (UniLM, arXiv 1905.03197), sections 2.2 and 2.3. Segments tell the network which; their
numbers are those of the published checkpoints.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from mainspring.data.token_row import Bools, Ints, TokenRow, join, token_row

Direction = Literal["bidirectional", "left_to_right", "right_to_left", "seq2seq"]

_TYPES: dict[Direction, tuple[int, int]] = {
    "bidirectional": (0, 1),
    "left_to_right": (2, 2),
    "right_to_left": (3, 3),
    "seq2seq": (4, 5),
}


def documents(row: TokenRow) -> list[TokenRow]:
    """The runs of one document each, in order."""
    bounds = np.flatnonzero(np.diff(row.doc)) + 1
    return [row.take(part) for part in np.split(np.arange(row.length), bounds) if len(part)]


def directed(ids: Ints, cut: int, direction: Direction, first: int, separator: int, doc: int) -> TokenRow:
    """One text, laid out for a direction: `[CLS] A [SEP] B [SEP]`, or `[CLS] A B [SEP]` for the one-sided.

    Args:
        ids: tokens of the text, [T].
        cut: where B begins, 1 .. T-1; unused for the one-sided directions.
        direction: who sees whom.
        first, separator: the special tokens.
        doc: number of the text in its row.

    Returns:
        [T + 3] or [T + 2].
    """
    kinds = _TYPES[direction]
    if kinds[0] == kinds[1]:
        row = token_row(np.concatenate([[first], ids, [separator]]), type=kinds[0], doc=doc)
        index = np.arange(row.length)
        return row._replace(rank=index if direction == "left_to_right" else index[::-1].copy())
    one = token_row(np.concatenate([[first], ids[:cut], [separator]]), type=kinds[0], doc=doc)
    two = token_row(np.concatenate([ids[cut:], [separator]]), start=one.length, type=kinds[1], doc=doc)
    if direction == "seq2seq":
        two = two._replace(rank=np.arange(1, two.length + 1))
    return join([one, two])


def ends_of_targets(row: TokenRow) -> Bools:
    """The last token of each target of a row: learning it is learning to stop. bool [T]."""
    last = np.ones(row.length, bool)
    last[:-1] = row.doc[1:] != row.doc[:-1]
    return np.asarray(last & (row.type == _TYPES["seq2seq"][1]))
