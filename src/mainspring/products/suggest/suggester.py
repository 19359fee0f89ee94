"""Suggestions while somebody types: past queries, then titles, then a model's where those are few."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from typing import Protocol

from mainspring.products.suggest.prefixes import Prefixes, Suggestion, normal

LEAST_ASKED = 2
"""Times that a query must have been asked before it is suggested to others."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
LONGEST = 200
"""Characters typed beyond which nothing is suggested."""


class PhraseModel(Protocol):
    """What suggestions ask of a model that continues a text."""

    def complete(self, typed: str, limit: int) -> list[Suggestion]:
        """The likeliest ways to finish the word and the phrase."""
        ...


class Suggester:
    """Completes what is typed. Past queries and titles may be replaced at any time, by any thread."""

    def __init__(
        self,
        queries: Mapping[str, float] | None = None,
        titles: Iterable[str] = (),
        model: PhraseModel | None = None,
    ) -> None:
        """Take what there is to suggest.

        Args:
            queries: past queries with the number of times each was asked.
            titles: titles of documents.
            model: writes phrases where past queries and titles are few.
        """
        self._model = model
        self._changing = threading.Lock()
        self.update(queries or {}, titles)

    def update(self, queries: Mapping[str, float], titles: Iterable[str]) -> None:
        """Replace past queries and titles."""
        held = [title for title in titles if len(title) <= LONGEST]
        words: dict[str, float] = {}
        for text, weight in [*((q, w) for q, w in queries.items()), *((t, 1.0) for t in held)]:
            for word in _WORD.findall(text):
                if len(word) > 2:
                    words[word] = words.get(word, 0.0) + weight
        with self._changing:
            self._queries = Prefixes(queries, "query")
            self._titles = Prefixes(dict.fromkeys(held, 1.0), "title")
            self._words = Prefixes({word.casefold(): weight for word, weight in words.items()}, "word")

    def suggest(self, typed: str, limit: int = 8) -> list[Suggestion]:
        """Whole queries that begin as typed, the best first."""
        if len(typed) > LONGEST or limit < 1:
            return []
        found: dict[str, Suggestion] = {}
        for source in (self._queries, self._titles):
            for suggestion in source.complete(typed, limit - len(found)):
                found.setdefault(normal(suggestion.text).strip(), suggestion)
        if self._model is not None and len(found) < limit:
            for suggestion in self._model.complete(typed, limit - len(found)):
                found.setdefault(normal(suggestion.text).strip(), suggestion)
        return list(found.values())[:limit]

    def autocomplete(self, typed: str, limit: int = 5) -> list[tuple[str, str]]:
        """Ways to finish the last word, each with the text that it makes."""
        last = typed[len(typed) - len(_last_word(typed)) :] if typed else ""
        if not last or len(typed) > LONGEST or limit < 1:
            return []
        before = typed[: len(typed) - len(last)]
        return [(word.text, before + word.text) for word in self._words.complete(last, limit)]


def _last_word(typed: str) -> str:
    match = re.search(r"[^\W_](?:[^\W_]|['’-](?=[^\W_]))*$", typed)
    return match.group() if match else ""
