"""From a query to results, wherever recall took place: order, captions, answers, and what was left out."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import UsageError
from mainspring.products.search.analysis import detect
from mainspring.products.search.captions import Query, caption, with_phrases
from mainspring.products.search.equipment import Models
from mainspring.products.search.highlights import with_read_phrases
from mainspring.products.search.lexical import plain
from mainspring.products.search.questions import is_question
from mainspring.products.search.rank import RANKED, Candidate
from mainspring.products.search.recall import Recalled, evidence_of
from mainspring.products.search.results import Answer, Caption, Hit, Results

MOST_ANSWERS = 10
"""Answers that may be asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, read."""

    query: str
    """As it was typed."""
    words: str
    """Without marks of what must and must not occur."""
    marks: bool
    """Whether it has such marks."""
    vector: NDArray[np.float32] | None
    """[D]; None: words alone are compared."""
    languages: Sequence[str]
    """Those whose analysis reads it."""
    top: int
    skip: int
    captions: bool
    answers: int
    semantic: bool
    started: float
    """Reading of the clock (`time.perf_counter`) when it came."""

    @property
    def depth(self) -> int:
        """Documents that will be looked at."""
        return self.top + self.skip


def ask(
    query: str,
    models: Models,
    languages: Sequence[str],
    *,
    top: int,
    skip: int,
    captions: bool,
    answers: int,
    semantic: bool,
    started: float,
) -> Asked:
    """Read a query. Arguments as for `Index.search`.

    Raises:
        UsageError: a number is out of its range.
    """
    check(top, skip, answers)
    marked = plain(query)
    words = query if marked is None else marked
    vector = models.encoder.encode([words])[0] if models.encoder is not None and words.strip() else None
    return Asked(
        query, words, marked is not None, vector, languages, top, skip, captions, answers, semantic, started
    )


def results(asked: Asked, found: Recalled, models: Models, *, lost: Sequence[str] = ()) -> Results:
    """What is returned of what recall found.

    Args:
        asked: the query.
        found: what recall found.
        models: what ranks, marks and answers.
        lost: names of the shards that did not answer.
    """
    relevance = {} if asked.vector is None else _relevance(asked.words, found, models)
    first = list(found.candidates[:RANKED])
    if relevance:
        first.sort(key=lambda c: (-relevance[c.document], -c.score, found.documents[c.document].key))
    order = [*first, *found.candidates[RANKED:]]
    chosen = order[asked.skip : asked.skip + asked.top]
    captions = _captions(asked, found, chosen, models) if asked.captions and chosen else {}
    hits = []
    for c in chosen:
        document = found.documents[c.document]
        hits.append(
            Hit(
                document.key,
                document.title,
                document.url,
                document.language,
                c.score,
                relevance.get(c.document),
                captions.get(c.document, ()),
                document.fields,
            )
        )
    return Results(
        asked.query,
        hits,
        _answers(asked, found, order, models),
        found.count,
        time.perf_counter() - asked.started,
        _lacking(asked, models),
        tuple(lost),
    )


def languages_of(query: str, main: str, present: Collection[str]) -> list[str]:
    """The languages whose analysis reads a query: its own where that shows, else all that there are.

    Args:
        query: what was asked.
        main: the index's.
        present: those of its documents.
    """
    known = {main, *present} - {"und"}
    own = detect(query, known) if len(known) > 1 else main
    return [own] if own is not None else sorted(known)


def check(top: int, skip: int, answers: int) -> None:
    """Refuse numbers that are out of their range.

    Raises:
        UsageError: one is.
    """
    if not 0 <= top <= 1000:
        raise UsageError(f"top = {top}: should be from 0 to 1000")
    if not 0 <= skip <= 100_000:
        raise UsageError(f"skip = {skip}: should be from 0 to 100000")
    if not 0 <= answers <= MOST_ANSWERS:
        raise UsageError(f"answers = {answers}: should be from 0 to {MOST_ANSWERS}")


def _relevance(query: str, found: Recalled, models: Models) -> dict[int, float]:
    ranked = found.candidates[:RANKED]
    evidence = [evidence_of(found, candidate) for candidate in ranked]
    values = models.ranker.relevance(query, [found.best(c).text for c in ranked], evidence)
    return {c.document: float(v) for c, v in zip(ranked, values, strict=True)}


def _captions(
    asked: Asked, found: Recalled, chosen: Sequence[Candidate], models: Models
) -> dict[int, tuple[Caption, ...]]:
    reading = Query(asked.words, asked.languages, asked.vector)
    best = [found.best(c) for c in chosen]
    made = [caption(reading, p, found.sentence_vectors.get(p.id)) for p in best]
    if models.encoder is not None:
        if models.heads is not None and is_question(asked.words):
            made = with_read_phrases(asked.words, made, models.heads.reader)
        else:
            made = with_phrases(reading, made, models.encoder)
    return {c.document: (text,) for c, text in zip(chosen, made, strict=True)}


def _lacking(asked: Asked, models: Models) -> str | None:
    """What was left out of a semantic search for want of something."""
    if not asked.semantic:
        return None
    if models.encoder is None:
        return models.missing
    if asked.answers and models.answerer is None and is_question(asked.words):
        return (
            f"questions are not answered: there are no heads for the encoder {models.encoder.name!r}; train "
            "some (mainspring search train) and open the index with them"
        )
    return None


def _answers(
    asked: Asked, found: Recalled, order: Sequence[Candidate], models: Models
) -> list[Answer] | None:
    if not asked.answers or models.answerer is None:
        return None
    if not is_question(asked.query):
        return []
    first = list(order[:RANKED])
    passages = [found.best(c) for c in first]
    documents = [found.documents[c.document] for c in first]
    return models.answerer.answers(asked.query, passages, documents, asked.answers)
