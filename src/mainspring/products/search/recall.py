"""Recall: the documents that may be meant, from the lexical and the dense index, fused by reciprocal rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.products.search.bm25 import Statistics
from mainspring.products.search.dense import DenseIndex
from mainspring.products.search.lexical import LexicalView, Scored
from mainspring.products.search.rank import RANKED, Candidate, Evidence, fuse
from mainspring.products.search.store import Store, StoredDocument, StoredPassage

DEPTH = 200
"""Passages that each index is asked for, at least."""
_COMPARED_ALL = 5000
_Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recalled:
    """What recall found, the best first."""

    candidates: Sequence[Candidate]
    """Documents, as many as will be looked at."""
    documents: Mapping[int, StoredDocument]
    """Each by its number."""
    passages: Mapping[int, StoredPassage]
    """The passages of the first documents that may be shown."""
    query: _Vector | None
    """Vector of the query."""
    vectors: Mapping[int, _Vector]
    """Vectors of those passages, where they have them."""
    sentence_vectors: Mapping[int, _Vector]
    """Vectors of their sentences."""
    count: int
    """Documents found."""

    def best(self, candidate: Candidate) -> StoredPassage:
        """The passage of a document that fits best: by vectors where there are any, else by words."""
        held = [p for p in candidate.passages if p in self.passages]
        if self.query is None or not any(p in self.vectors for p in held):
            return self.passages[held[0]]
        return self.passages[max(held, key=lambda p: self._nearness(p))]

    def _nearness(self, passage: int) -> float:
        if self.query is None or passage not in self.vectors:
            return -1.0
        return float(self.vectors[passage] @ self.query)


class Found(NamedTuple):
    """A passage that an index found."""

    passage: int
    """Its number."""
    document: int
    """Its document's number."""
    key: str
    """Its document's key."""
    score: float
    """Larger is better."""


class Lists(NamedTuple):
    """What the two indexes found, each the best first."""

    words: Sequence[Found]
    """By words."""
    meanings: Sequence[Found]
    """By vectors."""

    def merged(self, other: Lists, wanted: int) -> Lists:
        """The best of these and others, whose scores have to compare."""
        return Lists(
            _in_order([*self.words, *other.words])[:wanted],
            _in_order([*self.meanings, *other.meanings])[:wanted],
        )


def fused(lists: Lists, *, semantic: bool) -> list[Candidate]:
    """The documents of both lists by reciprocal rank, or by words alone; equal ones in the order of keys.

    Of two documents with one key, of which one is just being replaced by the other, the later one counts.
    """
    words, meanings = _grouped(lists.words), _grouped(lists.meanings)
    key_of = {hit.document: hit.key for hit in (*lists.words, *lists.meanings)}
    lexical: dict[int, float] = {}
    for hit in lists.words:
        lexical.setdefault(hit.document, hit.score)
    scores = fuse([list(words), list(meanings)]) if semantic else lexical
    latest = {key_of[document]: document for document in sorted(scores)}
    order = sorted((d for d in scores if latest[key_of[d]] == d), key=lambda d: (-scores[d], key_of[d]))
    return [
        Candidate(
            document,
            scores[document],
            tuple(dict.fromkeys([*words.get(document, ()), *meanings.get(document, ())])),
            lexical.get(document, 0.0),
        )
        for document in order
    ]


def depth_of(wanted: int) -> int:
    """Passages that each index is asked for where so many documents will be looked at."""
    return max(DEPTH, 2 * wanted)


def seen(candidates: Sequence[Candidate], depth: int, *, semantic: bool) -> list[Candidate]:
    """Those that will be looked at: `depth`, and where meaning ranks, all that it ranks."""
    return list(candidates[: max(RANKED, depth) if semantic else depth])


class Recall:
    """Finds candidates in one snapshot of an index."""

    def __init__(self, store: Store, lexical: LexicalView, dense: DenseIndex, generation: int) -> None:
        self._store, self._lexical, self._dense, self._generation = store, lexical, dense, generation

    def find(
        self,
        query: str,
        vector: _Vector | None,
        *,
        languages: Collection[str],
        within: Sequence[int] | None,
        depth: int,
        marks: bool = False,
    ) -> Recalled:
        """The documents that may be meant.

        Args:
            query: what was asked.
            vector: the same as a vector, [D]; None: by words alone.
            languages: those whose analysis reads the query.
            within: documents to look among (None: all).
            depth: documents that will be looked at.
            marks: the query says what must or must not occur.
        """
        lists = self.lists(
            query, vector, languages=languages, within=within, wanted=depth_of(depth), marks=marks
        )
        semantic = vector is not None
        candidates = fused(lists, semantic=semantic)
        return self.looked_up(seen(candidates, depth, semantic=semantic), vector, len(candidates))

    def lists(
        self,
        query: str,
        vector: _Vector | None,
        *,
        languages: Collection[str],
        within: Sequence[int] | None,
        wanted: int,
        marks: bool,
        statistics: Statistics | None = None,
    ) -> Lists:
        """What the lexical and the dense index find.

        Args:
            query: what was asked.
            vector: the same as a vector, [D]; None: by words alone.
            languages: those whose analysis reads the query.
            within: documents to look among (None: all).
            wanted: passages of each index.
            marks: the query says what must or must not occur, which is a matter of words alone.
            statistics: to score words by; None: this index's own.
        """
        by_words = (
            self._lexical.search(query, wanted, languages=languages, within=within)
            if statistics is None
            else self._lexical.search_by(query, wanted, statistics, languages=languages, within=within)
        )
        by_meaning = [] if vector is None or marks else self._nearest(vector, wanted, within)
        numbers = dict.fromkeys(hit.passage for hit in (*by_words, *by_meaning))
        owners = self._store.owners(list(numbers), self._generation)
        words, meanings = (
            _in_order([Found(p, *owners[p], score) for p, score in hits if p in owners])
            for hits in (by_words, by_meaning)
        )
        return Lists(words, meanings)

    def looked_up(self, candidates: Sequence[Candidate], vector: _Vector | None, count: int) -> Recalled:
        """Documents, passages and vectors of candidates; those that are gone meanwhile are left out.

        Args:
            candidates: of this index.
            vector: of the query; None: words alone are compared.
            count: documents found.
        """
        documents = self._store.documents([c.document for c in candidates])
        # By words alone the first passage is the best; by meaning any of them may be.
        most = 1 if vector is None else None
        looked_at = [p for c in candidates for p in c.passages[:most]]
        passages = self._store.passages(looked_at)
        return Recalled(
            [c for c in candidates if c.document in documents and c.passages[0] in passages],
            documents,
            passages,
            vector,
            {} if vector is None else self._dense.vectors(looked_at),
            {} if vector is None else self._dense.sentences(looked_at),
            count,
        )

    def _nearest(self, vector: _Vector, wanted: int, within: Sequence[int] | None) -> list[Scored]:
        if within is None:
            return self._dense.search(vector, wanted)
        allowed = self._store.passages_of(within)
        if len(allowed) <= _COMPARED_ALL:
            held = self._dense.vectors(allowed)
            near = [Scored(passage, float(v @ vector)) for passage, v in held.items()]
            return sorted(near, key=lambda hit: -hit.score)[:wanted]
        members = set(allowed)
        share = max(1, self._dense.passages) / len(allowed)
        found = self._dense.search(vector, min(10_000, int(wanted * share * 1.5)))
        return [hit for hit in found if hit.passage in members][:wanted]


def evidence_of(found: Recalled, candidate: Candidate) -> Evidence:
    """What a ranker knows of a candidate."""
    query = found.query
    assert query is not None, "evidence is of semantic ranking"
    none = np.zeros(0, np.float32)
    passages = [found.vectors[p] @ query for p in candidate.passages if p in found.vectors]
    sentences = [found.sentence_vectors[p] @ query for p in candidate.passages if p in found.sentence_vectors]
    return Evidence(
        candidate.lexical,
        np.asarray(passages, np.float32) if passages else none,
        np.concatenate(sentences) if sentences else none,
    )


def _in_order(found: Sequence[Found]) -> list[Found]:
    return sorted(found, key=lambda hit: (-hit.score, hit.key))


def _grouped(found: Sequence[Found]) -> dict[int, list[int]]:
    """Passages by document, both in the order found."""
    groups: dict[int, list[int]] = {}
    for hit in found:
        groups.setdefault(hit.document, []).append(hit.passage)
    return groups
