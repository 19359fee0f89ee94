"""Highlights by a trained reader: words of a caption that bear on a query, though they share none with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainspring.finetune.text_reader import ReadText, TextReader
from mainspring.products.search.captions import merged
from mainspring.products.search.documents import Span
from mainspring.products.search.results import Caption

LEAST = 0.0
"""Logit from which a caption has something to highlight."""
BELOW_BEST = 2.0
"""Logits below the best token's down to which its neighbours are highlighted with it."""
MOST_TOKENS = 12
"""Tokens of a highlight."""


def with_read_phrases(query: str, captions: Sequence[Caption], reader: TextReader) -> list[Caption]:
    """Captions whose highlights also have the stretch that the reader finds to bear on the query most.

    One pass of the reader over all captions.
    """
    readings = reader.read([(query, caption.text) for caption in captions])
    found: list[Caption] = []
    for caption, reading in zip(captions, readings, strict=True):
        span = stretch(reading, caption.text)
        more = () if span is None else (span,)
        found.append(caption._replace(highlights=tuple(merged([*caption.highlights, *more]))))
    return found


def stretch(reading: ReadText, text: str) -> Span | None:
    """The stretch of whole words around the token that bears on the query most; None where none does."""
    logits = reading.highlights
    if not len(logits) or float(logits.max()) < LEAST:
        return None
    best = int(np.argmax(logits))
    least = max(LEAST, float(logits[best]) - BELOW_BEST)
    first = last = best
    while first > 0 and logits[first - 1] >= least and best - first < MOST_TOKENS // 2:
        first -= 1
    while last + 1 < len(logits) and logits[last + 1] >= least and last - best < MOST_TOKENS // 2:
        last += 1
    start, stop = int(reading.offsets[first, 0]), int(reading.offsets[last, 1])
    while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while stop < len(text) and text[stop].isalnum() and text[stop - 1].isalnum():
        stop += 1
    return Span(start, stop)
