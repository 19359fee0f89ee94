"""What an index asks of a lexical engine: passages by their words, scored by BM25."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from mainspring.products.search.bm25 import Statistics
from mainspring.products.search.store import ToIndex

SYNTAX = re.compile(r'(?<!\S)([+-]?)(?:"([^"]*)"|(\S+))')
"""Of each part of a query: what must or must not occur, a phrase, a word."""


def plain(query: str) -> str | None:
    """The words of a query without its marks; None where it has no marks, so that meaning alone may find.

    >>> plain('water -"sea salt"'), plain("water")
    ('water', None)
    """
    found = SYNTAX.findall(query)
    if not any(sign or phrase for sign, phrase, _ in found):
        return None
    return " ".join(phrase or word for sign, phrase, word in found if sign != "-")


class Scored(NamedTuple):
    """A passage with its score."""

    passage: int
    """Its number."""
    score: float
    """Larger is better."""


class LexicalView(Protocol):
    """A lexical index as it was at one moment; any number of threads and processes read."""

    def search(
        self, query: str, limit: int, *, languages: Collection[str], within: Sequence[int] | None = None
    ) -> list[Scored]:
        """The passages that fit best. Any text is a query.

        Args:
            query: words; a phrase in quotes, `-word` for what may not occur, `+word` for what must.
            limit: how many.
            languages: those whose analysis reads the query.
            within: numbers of the documents to look among (None: all).
        """
        ...

    def statistics(self, query: str, languages: Collection[str]) -> Statistics:
        """What scoring a query needs to know of this index."""
        ...

    def search_by(
        self,
        query: str,
        limit: int,
        statistics: Statistics,
        *,
        languages: Collection[str],
        within: Sequence[int] | None = None,
    ) -> list[Scored]:
        """As `search`, scored by statistics of more than this index: of those the passages that fit best."""
        ...

    def terms_with_prefix(self, prefix: str, limit: int) -> list[tuple[str, int]]:
        """Words of titles that begin so, and the number of passages each occurs in."""
        ...

    @property
    def passages(self) -> int:
        """Number of passages."""
        ...


class LexicalIndex(Protocol):
    """What an index asks of a lexical engine; one process at a time writes."""

    def view(self) -> LexicalView:
        """The index as it is now."""
        ...

    def write(self, deleted: Sequence[int], added: Iterable[ToIndex], *, again: bool = False) -> None:
        """Remove documents by number and add passages, in one commit that holds once this returns.

        Args:
            deleted: documents to remove; those that are not there are passed over.
            added: passages to add.
            again: some passages may be there already, and are replaced.
        """
        ...
