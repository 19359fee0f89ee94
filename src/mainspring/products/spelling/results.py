"""What a correction gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Candidate(NamedTuple):
    """A word that may have been meant."""

    text: str
    """With the capitals of what was written."""
    probability: float
    """That it was meant, among all candidates and what was written."""


@dataclass(frozen=True, slots=True)
class WordResult:
    """A word that was looked at and is not surely right."""

    start: int
    """Where it begins in the text, in characters."""
    stop: int
    """Where it ends."""
    text: str
    """What was written."""
    candidates: tuple[Candidate, ...]
    """The likeliest first."""
    correction: str | None
    """What stands in its place in the corrected text; None: it stays."""
    kind: str
    """`nonword`, `realword`, `split` (one word written for two) or `join` (two for one)."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A text and what it should be."""

    text: str
    """As it was given."""
    corrected: str
    language: str
    """BCP 47 tag of the language it was read in; `und` where none is known, and nothing was changed."""
    confidence: float
    """Of the language: 1 where it was given."""
    words: tuple[WordResult, ...]
    """In order of their places."""

    @property
    def changed(self) -> bool:
        """Whether the corrected text is another."""
        return self.corrected != self.text
