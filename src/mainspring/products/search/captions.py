"""Captions: the sentence of a document that bears on the query most, and what in it does.

Sentences are compared by the vectors they got when they were indexed; without vectors by the words they share
with the query, rare ones first. Highlights are the query's own words and, by vectors, the phrase nearest in
meaning, which need share no word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from mainspring.products.search.analysis import analyzer, segmented
from mainspring.products.search.documents import Span
from mainspring.products.search.encoder import Encoder
from mainspring.products.search.results import Caption
from mainspring.products.search.store import StoredPassage

LONGEST = 320
"""Characters that a caption has about; sentences are added while there is room."""
NEAR = 0.45
"""Cosine of query and phrase from which the phrase is a highlight."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_PHRASE_WORDS = (1, 2, 3, 5)


class Query:
    """A query as captions read it."""

    def __init__(self, text: str, languages: Collection[str], vector: NDArray[np.float32] | None) -> None:
        self.languages, self.vector = tuple(languages), vector
        self.words = frozenset(
            term for language in self.languages for term in analyzer(language).analyze(segmented(text))
        )

    def matched(self, text: str) -> list[Span]:
        """Words of a text that are words of the query, by their stems; in scripts without spaces, pairs of
        characters."""
        found: list[Span] = []
        for match in _WORD.finditer(text):
            word = match.group()
            if any(t in self.words for language in self.languages for t in analyzer(language).analyze(word)):
                found.append(Span(*match.span()))
            elif not word.isascii() and segmented(word) != word:
                for i in range(len(word) - 1):
                    if word[i : i + 2] in self.words:
                        found.append(Span(match.start() + i, match.start() + i + 2))
        return found

    def says_something(self, word: str) -> bool:
        """Whether a word is none of the stop words."""
        return any(analyzer(language).analyze(segmented(word)) for language in self.languages)


def caption(query: Query, passage: StoredPassage, sentences: NDArray[np.float32] | None) -> Caption:
    """The caption of a passage.

    Args:
        query: what was asked.
        passage: the passage.
        sentences: vectors of its sentences, [s, D].
    """
    spans = passage.sentences or (Span(0, len(passage.text.rstrip())),)
    best = _best(query, passage, spans, sentences)
    start, stop = spans[best]
    for span in spans[best + 1 :]:
        if span.stop - start > LONGEST:
            break
        stop = span.stop
    text = passage.text[start:stop]
    return Caption(text, passage.start + start, tuple(merged(query.matched(text))))


def with_phrases(query: Query, captions: Sequence[Caption], encoder: Encoder) -> list[Caption]:
    """Captions whose highlights also have the phrase nearest to the query in meaning, where one is near.

    One pass of the encoder over all captions.
    """
    if query.vector is None or not captions:
        return list(captions)
    choices = [_phrases(c.text, query) for c in captions]
    encoded = encoder.encode_parts([c.text for c in captions], choices)
    found: list[Caption] = []
    for c, spans, vectors in zip(captions, choices, encoded, strict=True):
        nearness = vectors.parts @ query.vector
        best = int(nearness.argmax()) if len(spans) else 0
        near = len(spans) > 0 and nearness[best] >= NEAR
        found.append(c._replace(highlights=tuple(merged([*c.highlights, spans[best]]))) if near else c)
    return found


def merged(spans: Sequence[Span]) -> list[Span]:
    """Stretches in order, those that touch or overlap as one.

    >>> merged([Span(4, 6), Span(0, 2), Span(5, 9)])
    [Span(start=0, stop=2), Span(start=4, stop=9)]
    """
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start <= found[-1].stop:
            found[-1] = Span(found[-1].start, max(found[-1].stop, span.stop))
        else:
            found.append(span)
    return found


def _best(
    query: Query, passage: StoredPassage, spans: Sequence[Span], sentences: NDArray[np.float32] | None
) -> int:
    shared = [
        len({passage.text[a:b].lower() for a, b in _within(query, passage.text[s:e])}) for s, e in spans
    ]
    if query.vector is None or sentences is None or len(sentences) != len(spans):
        return int(np.argmax(shared))
    # Words decide between sentences that are about equally near.
    return int(np.argmax(sentences @ query.vector + 0.02 * np.minimum(shared, 5)))


def _within(query: Query, text: str) -> list[Span]:
    return query.matched(text)


def _phrases(text: str, query: Query) -> list[Span]:
    """Stretches of a few words of a text, within a clause, that neither begin nor end with a stop word."""
    words = [Span(*m.span()) for m in _WORD.finditer(text)]
    says = [query.says_something(text[a:b]) for a, b in words]
    found: list[Span] = []
    for length in _PHRASE_WORDS:
        for i in range(len(words) - length + 1):
            if not (says[i] and says[i + length - 1]):
                continue
            start, stop = words[i].start, words[i + length - 1].stop
            if not re.search(r"[.,;:!?()\n]", text[start:stop]):
                found.append(Span(start, stop))
    return found
