"""Suggestions of a served index: kept up to date with its titles and with what is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from mainspring.products.search import Index
from mainspring.products.suggest import LEAST_ASKED, PhraseModel, QueryLog, Suggester, Suggestion

_AFTER_QUERIES = 50
_MOST_TITLES = 500_000


class Suggestions:
    """Suggests, and takes note of queries that found something."""

    def __init__(self, index: Index, log: QueryLog | None, model: PhraseModel | None = None) -> None:
        """Begin with the titles that there are and the queries that were asked.

        Args:
            index: whose titles are suggested.
            log: past queries; None: they are neither kept nor suggested.
            model: writes phrases where titles and queries are few.
        """
        self._index, self._log = index, log
        self._suggester = Suggester(model=model)
        self._state: tuple[int, int] | None = None
        self._updating = threading.Lock()
        self.refresh()

    def asked(self, query: str) -> None:
        """Take note of a query that found something."""
        if self._log is not None:
            self._log.add(query)

    def suggest(self, typed: str, limit: int) -> list[Suggestion]:
        """Whole queries that begin as typed."""
        return self._suggester.suggest(typed, limit)

    def autocomplete(self, typed: str, limit: int) -> list[tuple[str, str]]:
        """Ways to finish the last word, each with the text that it makes."""
        return self._suggester.autocomplete(typed, limit)

    def refresh(self) -> bool:
        """Take in new titles and queries, where there are enough of them; whether it did."""
        changes = 0 if self._log is None else self._log.changes // _AFTER_QUERIES
        state = (self._index.store.lexical_generation, changes)
        if state == self._state or not self._updating.acquire(blocking=False):
            return False
        try:
            counts = {} if self._log is None else self._log.counts(LEAST_ASKED)
            self._suggester.update({q: float(n) for q, n in counts.items()}, self._titles())
            self._state = state
        finally:
            self._updating.release()
        return True

    def _titles(self) -> Iterable[str]:
        for number, title in enumerate(self._index.store.titles()):
            if number >= _MOST_TITLES:
                return
            yield title
