"""Answers to questions by a trained reader: verbatim spans where it is sure enough, yes or no over several
passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mainspring.finetune.text_reader import ReadText
from mainspring.products.search.documents import Span
from mainspring.products.search.heads import Heads
from mainspring.products.search.questions import is_polar
from mainspring.products.search.results import Answer
from mainspring.products.search.store import StoredDocument, StoredPassage
from mainspring.recipes.search.curves import probability

READ = 5
"""Passages that are read of a question's results."""


class Answerer(Protocol):
    """What search asks of a model that answers questions."""

    def answers(
        self,
        question: str,
        passages: Sequence[StoredPassage],
        documents: Sequence[StoredDocument],
        limit: int,
    ) -> list[Answer]:
        """Verbatim answers from passages, the best first; none where none is sure enough.

        Args:
            question: what was asked.
            passages: the best passage of each document, the most relevant first.
            documents: the document of each.
            limit: how many answers at most.
        """
        ...


class ReaderAnswerer:
    """Answers from the first passages, by heads."""

    def __init__(self, heads: Heads, *, read: int = READ) -> None:
        """Take heads, and how many passages to read."""
        self._heads, self._read = heads, read

    def answers(
        self,
        question: str,
        passages: Sequence[StoredPassage],
        documents: Sequence[StoredDocument],
        limit: int,
    ) -> list[Answer]:
        """See `Answerer.answers`."""
        passages, documents = passages[: self._read], documents[: self._read]
        readings = self._heads.reader.read([(question, passage.text) for passage in passages])
        if is_polar(question):
            verdict = self.verdict(readings, passages, documents)
            return [] if verdict is None else [verdict]
        return self.spans(readings, passages, documents)[:limit]

    def spans(
        self,
        readings: Sequence[ReadText],
        passages: Sequence[StoredPassage],
        documents: Sequence[StoredDocument],
    ) -> list[Answer]:
        """The best span of each passage that is sure enough, each answer once, the surest first."""
        curve = self._heads.settings.answer
        found: dict[str, Answer] = {}
        for reading, passage, document in zip(readings, passages, documents, strict=True):
            if not reading.spans:
                continue
            span = reading.spans[0]
            sure = curve.sure(span.score, reading.relevance)
            short = passage.text[span.start : span.stop]
            key = " ".join(short.casefold().split())
            if sure < curve.threshold or not key or (key in found and found[key].score >= sure):
                continue
            start, stop = around(passage, Span(span.start, span.stop))
            mark = Span(span.start - start, span.stop - start)
            found[key] = Answer(passage.text[start:stop], document.key, passage.start + start, sure, (mark,))
        return sorted(found.values(), key=lambda answer: -answer.score)

    def verdict(
        self,
        readings: Sequence[ReadText],
        passages: Sequence[StoredPassage],
        documents: Sequence[StoredDocument],
    ) -> Answer | None:
        """Yes or no, where the passages, each weighted by its relevance, are conclusive together.

        It is shown by the sentence that bears on the question most of the passage that says so most.
        """
        curve = self._heads.settings.verdict
        if not readings:
            return None
        weights = [probability(reading.relevance) for reading in readings]
        says = [curve.yes(reading.verdict) for reading in readings]
        total = sum(weights)
        yes = sum(w * s for w, s in zip(weights, says, strict=True)) / total
        if total < curve.weight or abs(yes - 0.5) < curve.margin:
            return None
        verdict = yes > 0.5
        agree = [w * (s if verdict else 1 - s) for w, s in zip(weights, says, strict=True)]
        best = int(np.argmax(agree))
        start, stop = _telling(readings[best], passages[best])
        text = passages[best].text[start:stop]
        return Answer(
            text,
            documents[best].key,
            passages[best].start + start,
            yes if verdict else 1 - yes,
            verdict=verdict,
        )


def around(passage: StoredPassage, span: Span) -> Span:
    """The sentences that a span lies in."""
    touched = [s for s in passage.sentences if s.stop > span.start and s.start < span.stop]
    if not touched:
        return span
    return Span(min(touched[0].start, span.start), max(touched[-1].stop, span.stop))


def _telling(reading: ReadText, passage: StoredPassage) -> Span:
    """The sentence that has what bears on the question most."""
    if not len(reading.highlights):
        return Span(0, len(passage.text.rstrip()))
    start, stop = reading.offsets[int(reading.highlights.argmax())].tolist()
    return around(passage, Span(start, stop))
