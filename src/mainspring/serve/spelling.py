"""Spelling over HTTP: the request, the answer, and a speller that is loaded when it is first asked."""

from __future__ import annotations

import threading
from typing import Any

from pydantic import Field

from mainspring.products.spelling import AUTO, THRESHOLD, Correction, Speller
from mainspring.serve.schema import Body, Text

MOST = 200_000
"""Characters of a text."""


class SpellRequest(Body):
    """Body of POST /v1/spell."""

    text: Text = Field(max_length=MOST)
    """A query, a sentence, or more."""
    language: Text = AUTO
    """BCP 47 tag; `auto` finds it from the text."""
    threshold: float = Field(THRESHOLD, gt=0, lt=1)
    """Probability from which a word is corrected."""


class Spelling:
    """The speller that ships with the package, loaded once, by whoever asks first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._speller: Speller | None = None

    def speller(self) -> Speller:
        """The speller.

        Raises:
            DataError: its files are missing or damaged.
        """
        with self._lock:
            if self._speller is None:
                self._speller = Speller.load()
            return self._speller


def answer(found: Correction) -> dict[str, Any]:
    """A correction as the API has it."""
    return {
        "object": "spelling",
        "text": found.text,
        "corrected": found.corrected,
        "language": found.language,
        "language_confidence": found.confidence,
        "words": [
            {
                "start": word.start,
                "stop": word.stop,
                "text": word.text,
                "kind": word.kind,
                "correction": word.correction,
                "candidates": [{"text": c.text, "score": c.probability} for c in word.candidates],
            }
            for word in found.words
        ],
    }
