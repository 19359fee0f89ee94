"""Layouts of a source and its target in one row, for one stack that reads the one and writes the other.

Dong et al. 2019 (UniLM, arXiv 1905.03197), section 2.3, and the three modes of the published s2s-ft code.
The source has rank 0: it sees itself. Token t of the target has rank t: it sees the source and what of the
target precedes it. Positions go on from the source to the target.
"""

from __future__ import annotations

import numpy as np

from mainspring.data.batch import IGNORE
from mainspring.data.token_row import Bools, Ints, TokenRow, join, token_row


def framed(ids: Ints, first: int | None, last: int | None) -> Ints:
    """Tokens between a first and a last one, where those are given."""
    before, after = ([] if token is None else [token] for token in (first, last))
    return np.concatenate([before, ids, after]).astype(np.int64)


def source_row(ids: Ints, first: int | None, separator: int, *, type: int = 0, lang: int = 0) -> TokenRow:
    """`[CLS] source [SEP]`, which sees itself: [S + 2], or [S + 1] without a first token."""
    return token_row(framed(ids, first, separator), type=type, lang=lang)


def target_row(ids: Ints, start: int, *, type: int = 1, lang: int = 0) -> TokenRow:
    """Tokens with ranks 1, 2, ... at the positions from `start` on: [T]."""
    return token_row(ids, start=start, rank=np.arange(1, len(ids) + 1), type=type, lang=lang)


def shifted(source: TokenRow, target: TokenRow, separator: int, noisy: Ints) -> TokenRow:
    """Mode 0: `source | [SEP] t_1 .. t_{T-1}`, each of the latter labelled with the token of the target that
    follows.

    Args:
        source: from `source_row`, [S].
        target: `t_1 .. t_T` from `target_row`, its last token the separator.
        separator: opens the target.
        noisy: what is fed in place of `t_1 .. t_T`, [T].
    """
    fed = np.concatenate([[separator], noisy[:-1]])
    return join([source, target._replace(ids=fed, labels=target.ids)])


def masked(source: TokenRow, target: TokenRow, where: Bools, hidden: Ints) -> TokenRow:
    """Mode 1: `source | target` with tokens of the target hidden and labelled: [S + T]."""
    return join([source, target.hide(where, hidden)])


def pseudo_masked(source: TokenRow, target: TokenRow, noisy: Ints, pseudo: Ints) -> TokenRow:
    """Mode 2: `source | target | pseudo`: a copy of each token of the target that asks for it: [S + 2 T].

    Copy t shares position and rank of token t and is a probe, so it sees the source, t_1 .. t_{t-1} and
    itself; nothing else sees it.

    Args:
        source: from `source_row`, [S].
        target: from `target_row`, [T].
        noisy: what is fed in place of the target, [T].
        pseudo: what the copies are, [T].
    """
    length = target.length
    copies = target._replace(ids=pseudo, probe=np.ones(length, bool), labels=target.ids)
    return join([source, target._replace(ids=noisy, labels=np.full(length, IGNORE)), copies])
