"""Searching in tantivy: queries built term by term, scored by the index's own statistics or by those of more.

Terms are counted in the query too (`analysis.terms`): tantivy's own query parser drops repeated words, which
is what it lost against other engines on long questions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from mainspring.products.search.analysis import analyzer, segmented, terms
from mainspring.products.search.bm25 import Match, Statistics, facts, matches, occurrence, understated
from mainspring.products.search.lexical import SYNTAX, Scored

TITLE_BOOST = 0.25
"""Weight of a match in the title beside one in the text, which holds the title too."""
_MOST_TERMS = 256
_SAMPLED = 50
_FIELDS = ("passage", "document", "text", "title", "spelt")
"""Fields of a passage, in the order of their numbers (`tantivy_index`)."""
_SCORED = ("text", "title")


class _Clause(NamedTuple):
    """A term, or a phrase, that a query asks for."""

    field: str
    terms: tuple[str, ...]
    boost: float
    query: Any
    """The engine's query of it, without the boost."""
    mark: int | None = None
    """Number of the marked word or phrase that it reads, one of whose readings must occur; None: of none."""
    forbids: bool = False
    """Whether it must not occur."""


class TantivyView:
    """A searcher of a tantivy index, a `LexicalView`."""

    def __init__(self, tantivy: Any, searcher: Any, schema: Any) -> None:
        self._tantivy, self._searcher, self._schema = tantivy, searcher, schema

    @property
    def passages(self) -> int:
        """Number of passages."""
        return int(self._searcher.num_docs)

    def search(
        self, query: str, limit: int, *, languages: Collection[str], within: Sequence[int] | None = None
    ) -> list[Scored]:
        """The passages that fit best (see `LexicalView.search`)."""
        built = self._query(self._clauses(query, languages), within)
        return [] if built is None else [hit for hit, _ in self._found(built, limit)]

    def statistics(self, query: str, languages: Collection[str]) -> Statistics:
        """What scoring a query needs to know of this index."""
        asked = {(c.field, term) for c in self._clauses(query, languages) for term in c.terms}
        passages, tokens = self._sizes
        holders = {(f, term): int(self._searcher.doc_freq(f, term)) for f, term in sorted(asked)}
        return Statistics(passages, tokens, holders)

    def search_by(
        self,
        query: str,
        limit: int,
        statistics: Statistics,
        *,
        languages: Collection[str],
        within: Sequence[int] | None = None,
    ) -> list[Scored]:
        """The passages that fit best by statistics of more than this index (see `LexicalView.search_by`).

        Terms are weighed by their rarity in the whole, and every hit is scored anew by the whole's mean
        lengths, which no query can tell the engine. More hits are taken until none that was left out could
        be among the best.
        """
        clauses = self._clauses(query, languages)
        local = self.statistics(query, languages)
        asked, weighed = self._query(clauses, within), self._query(clauses, within, (local, statistics))
        if asked is None or weighed is None or not local.passages:
            return []
        taken = limit + limit // 4
        slack = understated(local, statistics) * (1 + 1e-6)  # the engine rounds to single precision
        while True:
            hits = self._found(weighed, taken)
            scored = [
                Scored(hit.passage, self._score(asked, clauses, address, statistics)) for hit, address in hits
            ]
            best = sorted(scored, key=lambda hit: -hit.score)[:limit]
            if not hits or len(hits) < taken or hits[-1][0].score * slack <= best[-1].score:
                return best
            taken *= 2

    def terms_with_prefix(self, prefix: str, limit: int) -> list[tuple[str, int]]:
        """Words of titles that begin so, and the number of passages each occurs in."""
        found: list[tuple[str, int]] = self._searcher.terms_with_prefix("spelt", prefix, limit=limit)
        return found

    def _found(self, query: Any, limit: int) -> list[tuple[Scored, Any]]:
        """Hits, each with the engine's address of it."""
        hits = self._searcher.search(query, limit, count=False).hits if limit else []
        numbers = self._searcher.fast_field_values("passage", [address for _, address in hits])
        return [(Scored(n, score), address) for (score, address), n in zip(hits, numbers, strict=True)]

    @cached_property
    def _sizes(self) -> tuple[float, dict[str, float]]:
        """Passages, and terms in each field, as the engine tells them of any match."""
        passages = 0.0
        tokens: dict[str, float] = {}
        for field in _SCORED:
            said = self._any_match(field)
            if said is not None:
                passages, tokens[field] = said["N"], said["N"] * said["avgdl"]
        return passages or float(self.passages), tokens

    def _any_match(self, field: str) -> dict[str, float] | None:
        # Terms whose passages are all deleted have no match; a field of deleted terms alone is an edge.
        for term, _ in self._searcher.terms_with_prefix(field, "", limit=_SAMPLED):
            query = self._tantivy.Query.term_query(self._schema, field, term, "freq")
            for _, address in self._searcher.search(query, 1, count=False).hits:
                return facts(json.loads(query.explain(self._searcher, address).to_json()))
        return None

    def _score(self, query: Any, clauses: Sequence[_Clause], address: Any, statistics: Statistics) -> float:
        """BM25 of a hit by some statistics."""
        said = json.loads(query.explain(self._searcher, address).to_json())
        found = list(matches(said, dict(enumerate(_FIELDS))))
        for clause in clauses:
            if len(clause.terms) > 1 and not clause.forbids:
                try:
                    phrase = json.loads(clause.query.explain(self._searcher, address).to_json())
                except ValueError:
                    continue  # so the engine says that this passage does not match
                found.append(Match(clause.field, clause.terms, clause.boost, *occurrence(phrase)))
        return sum(match.score(statistics) for match in found)

    def _clauses(self, text: str, languages: Collection[str]) -> list[_Clause]:
        """What a query consists of."""
        query = self._tantivy.Query
        clauses: list[_Clause] = []
        free: list[str] = []
        for number, (sign, phrase, word) in enumerate(SYNTAX.findall(text)):
            if not phrase and not sign:
                free.append(word)
                continue
            for words in self._readings(phrase or word.strip('"'), languages):
                match = (
                    query.term_query(self._schema, "text", words[0], "position")
                    if len(words) == 1
                    else query.phrase_query(self._schema, "text", list(words))
                )
                clauses.append(_Clause("text", words, 1.0, match, number, sign == "-"))
        counted = sorted(terms(" ".join(free), languages).items(), key=lambda item: -item[1])[:_MOST_TERMS]
        for term, count in counted:
            for name, boost in (("text", 1.0), ("title", TITLE_BOOST)):
                match = query.term_query(self._schema, name, term, "freq")
                clauses.append(_Clause(name, (term,), boost * count, match))
        return clauses

    def _query(
        self,
        clauses: Sequence[_Clause],
        within: Sequence[int] | None,
        weigh: tuple[Statistics, Statistics] | None = None,
    ) -> Any:
        """Clauses as one query, None where nothing is searched for.

        Args:
            clauses: what it consists of.
            within: documents to look among.
            weigh: statistics of this index, and those in whose rarity terms are to be weighed.
        """
        query, occur = self._tantivy.Query, self._tantivy.Occur
        if all(clause.forbids for clause in clauses):
            return None
        built: list[tuple[Any, Any]] = []
        marked: dict[int, list[_Clause]] = {}
        for clause in clauses:
            if clause.mark is not None:
                marked.setdefault(clause.mark, []).append(clause)
            else:
                built.append((occur.Should, _boosted(query, clause, weigh)))
        for choices in marked.values():
            parts = [_boosted(query, clause, weigh) for clause in choices]
            whole = parts[0] if len(parts) == 1 else query.boolean_query([(occur.Should, p) for p in parts])
            built.append((occur.MustNot if choices[0].forbids else occur.Must, whole))
        whole = query.boolean_query(built)
        if within is None:
            return whole
        allowed = query.const_score_query(query.term_set_query(self._schema, "document", list(within)), 0.0)
        return query.boolean_query([(occur.Must, whole), (occur.Must, allowed)])

    def _readings(self, text: str, languages: Collection[str]) -> list[tuple[str, ...]]:
        """The words of a phrase, or a single marked word, as each of the languages reads them."""
        readings = {tuple(analyzer(language).analyze(segmented(text))) for language in languages}
        return [words for words in sorted(readings) if words]


def _boosted(query: Any, clause: _Clause, weigh: tuple[Statistics, Statistics] | None) -> Any:
    boost = clause.boost
    if weigh is not None:
        local, whole = (sum(s.rarity(clause.field, term) for term in clause.terms) for s in weigh)
        boost *= whole / local if local else 1.0
    return clause.query if boost == 1.0 else query.boost_query(clause.query, boost)
