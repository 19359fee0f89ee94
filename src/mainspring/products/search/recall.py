"""Recall: the documents that may be meant, from the lexical and the dense index, fused by reciprocal rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mainspring.products.search.dense import DenseIndex
from mainspring.products.search.lexical import LexicalView, Scored
from mainspring.products.search.rank import RANKED, Candidate, Evidence, fuse, grouped
from mainspring.products.search.store import Store, StoredDocument, StoredPassage

DEPTH = 200
"""Passages that each index is asked for, at least."""
_COMPARED_ALL = 5000
_REPLACED = 10
"""Candidates looked up beyond those needed, in place of such as are just being replaced."""
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
        wanted = max(DEPTH, 2 * depth)
        by_words = self._lexical.search(query, wanted, languages=languages, within=within)
        # What must or must not occur is a matter of words.
        by_meaning = [] if vector is None or marks else self._nearest(vector, wanted, within)
        numbers = [hit.passage for hit in by_words] + [hit.passage for hit in by_meaning]
        document_of = self._store.documents_of(list(dict.fromkeys(numbers)), self._generation)
        words = grouped([hit.passage for hit in by_words], document_of)
        meanings = grouped([hit.passage for hit in by_meaning], document_of)
        lexical = _best_scores(by_words, document_of)
        scores = fuse([list(words), list(meanings)]) if vector is not None else lexical
        order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        seen = depth if vector is None else max(RANKED, depth)
        documents = self._store.documents([number for number, _ in order[: seen + _REPLACED]])
        latest = {d.key: d.id for d in sorted(documents.values())}
        candidates = [
            Candidate(
                number,
                score,
                tuple(dict.fromkeys([*words.get(number, ()), *meanings.get(number, ())])),
                lexical.get(number, 0.0),
            )
            for number, score in order
            if number in documents and latest[documents[number].key] == number
        ][:seen]
        # By words alone the first passage is the best; by meaning any of them may be.
        most = 1 if vector is None else None
        looked_at = [p for c in candidates for p in c.passages[:most]]
        return Recalled(
            candidates,
            documents,
            self._store.passages(looked_at),
            vector,
            {} if vector is None else self._dense.vectors(looked_at),
            {} if vector is None else self._dense.sentences(looked_at),
            len(order),
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


def _best_scores(hits: Sequence[Scored], document_of: Mapping[int, int]) -> dict[int, float]:
    scores: dict[int, float] = {}
    for passage, score in hits:
        document = document_of.get(passage)
        if document is not None:
            scores.setdefault(document, score)
    return scores
