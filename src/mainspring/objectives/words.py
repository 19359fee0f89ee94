"""What an objective has to know of a tokenizer: which tokens are special and where words begin.

Three spellings of "a word begins here" are in use: WordPiece marks the pieces that continue (`##ing`),
byte-level BPE the pieces that begin (a leading `Ġ`, its spelling of the space), SentencePiece likewise with
`▁`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mainspring.text.tokenizer import Tokenizer

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_SPACES = {"wordpiece": "", "byte": "ĠĊĉč", "sentencepiece": "▁"}


class Vocabulary(NamedTuple):
    """Facts of a tokenizer, as arrays over its V tokens."""

    special: Bools
    """[V] tokens that stand for no text: never masked, never drawn as a replacement."""
    begins: Bools
    """[V] tokens that begin a word wherever they stand."""
    closes: Bools
    """[V] tokens after which a new word begins (white space and punctuation)."""
    mask: int | None
    """The mask token, if there is one."""
    first: int | None = None
    """What stands before a text (`[CLS]`), if there is such a token."""
    separator: int | None = None
    """What ends a text (`[SEP]`), if there is such a token."""
    pad: int = 0
    """What fills rows up."""

    @classmethod
    def of(
        cls,
        tokens: Sequence[str],
        special: Collection[int],
        mask: int | None,
        *,
        first: int | None = None,
        separator: int | None = None,
        pad: int = 0,
    ) -> Self:
        """Work the facts out from the spelling of the tokens (`tokens[i]` spells token i)."""
        kind = _spelling(tokens)
        begins = np.zeros(len(tokens), bool)
        closes = np.zeros(len(tokens), bool)
        for index, token in enumerate(tokens):
            begins[index], closes[index] = _edges(token, kind)
        is_special = np.zeros(len(tokens), bool)
        is_special[list(special)] = True
        return cls(is_special, begins | is_special, closes | is_special, mask, first, separator, pad)

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """The facts of a tokenizer."""
        tokens = [tokenizer.token(index) or "" for index in range(tokenizer.vocab_size)]
        separator = tokenizer.separator if tokenizer.sep is None else tokenizer.sep
        return cls.of(
            tokens,
            tokenizer.special_ids,
            tokenizer.mask,
            first=tokenizer.cls,
            separator=separator,
            pad=tokenizer.pad or 0,
        )


def word_starts(ids: Ints, vocabulary: Vocabulary, doc: Ints | None = None, longest: int = 16) -> Bools:
    """Where a word begins in a row: bool [T] for ids [T]; also wherever the document changes.

    A word of more than `longest` tokens is cut: scripts that put no space between words would otherwise
    make a whole document one word.
    """
    starts = vocabulary.begins[ids].copy()
    starts[:1] = True
    starts[1:] |= vocabulary.closes[ids[:-1]]
    if doc is not None:
        starts[1:] |= doc[1:] != doc[:-1]
    index = np.arange(len(ids))
    since = index - np.maximum.accumulate(np.where(starts, index, 0))
    return np.asarray(starts | (since % longest == 0))


def _spelling(tokens: Sequence[str]) -> str:
    """The spelling whose mark most tokens carry: any mark may also occur in text (`##`, Maltese `Ġ`)."""
    marks = {"byte": "Ġ", "wordpiece": "##", "sentencepiece": "▁"}
    return max(marks, key=lambda kind: sum(token.startswith(marks[kind]) for token in tokens))


def _edges(token: str, kind: str) -> tuple[bool, bool]:
    """Whether the token begins a word, and whether a word begins after it."""
    if kind == "wordpiece":
        return not token.startswith("##"), False
    spaces = _SPACES[kind]
    if not token:
        return False, False
    return _apart(token[0], spaces), _apart(token[-1], spaces)


def _apart(character: str, spaces: str) -> bool:
    """White space or ASCII punctuation; other bytes are spelt above U+00A0 and may continue a word."""
    return character in spaces or (character.isascii() and not character.isalnum())
