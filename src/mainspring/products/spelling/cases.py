"""The words of a text that are looked into: those the lexicon lacks, or that fit their neighbours ill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mainspring.products.spelling.engine import Asked, LanguageEngine
from mainspring.products.spelling.letters import normal_word
from mainspring.products.spelling.technical import TECHNICAL
from mainspring.products.spelling.tokens import Token


class Case(NamedTuple):
    """A word of a text that is looked into."""

    token: Token
    asked: Asked
    whole: str | None = None
    """A word of the lexicon that it makes with its neighbour."""
    start: int = 0
    """Where that word begins in the text,"""
    stop: int = 0
    """and ends."""


def cases(tokens: Iterable[Token], text: str, engine: LanguageEngine) -> Iterator[Case]:
    """The words that are looked into: those that the lexicon does not have."""
    before: Token | None = None
    after = iter(tokens)
    held = next(after, None)
    while held is not None:
        following = next(after, None)
        case = _case(before, held, following, text, engine)
        if case is not None:
            yield case
        before, held = held, following


def _case(
    before: Token | None, token: Token, following: Token | None, text: str, engine: LanguageEngine
) -> Case | None:
    if token.kind != "word":
        return None
    word = normal_word(token.text)
    if len(word) < 2 or word in TECHNICAL:
        return None
    left = _beside(before) if before is not None and _adjacent(text, before, token) else None
    right = _beside(following) if following is not None and _adjacent(text, token, following) else None
    if engine.known(word):
        doubtful = engine.suspicious(word, left, right)
        return Case(token, Asked(word, left, right, known=True)) if doubtful else None
    case = Case(token, Asked(word, left, right, capital=token.text[:1].isupper()))
    if right is not None and following is not None and _joins(token, following, text, engine):
        return case._replace(whole=word + right, start=token.start, stop=following.stop)
    if left is not None and before is not None and _joins(before, token, text, engine):
        return case._replace(whole=left + word, start=before.start, stop=token.stop)
    return case


def _beside(token: Token) -> str | None:
    # Making a long run of marks normal takes time in the square of its length.
    return None if token.kind == "long" else normal_word(token.text)


def _joins(first: Token, second: Token, text: str, engine: LanguageEngine) -> bool:
    """Whether two words with one blank between them make a word."""
    both = first.kind == second.kind == "word" and text[first.stop : second.start] == " "
    return both and normal_word(first.text) + normal_word(second.text) in engine.lexicon


def _adjacent(text: str, first: Token, second: Token) -> bool:
    """Whether nothing but blanks stands between two words."""
    return second.start - first.stop <= 3 and not text[first.stop : second.start].strip()
