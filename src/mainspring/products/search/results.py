"""What a search returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mainspring.products.search.documents import Span


class Caption(NamedTuple):
    """A stretch of a document that says why it was found, as it stands there."""

    text: str
    """Verbatim."""
    start: int
    """Where it begins in the document's text, in characters."""
    highlights: tuple[Span, ...]
    """What in it bears on the query, within `text`; not only the query's own words."""

    def marked(self, before: str = "<em>", after: str = "</em>") -> str:
        """The text with its highlights between tags. Nothing is escaped: a page must not take it as markup.

        >>> Caption("a b c", 0, (Span(2, 3),)).marked()
        'a <em>b</em> c'
        """
        return marked(self.text, self.highlights, before, after)


class Answer(NamedTuple):
    """An answer to a question, as it stands in a document."""

    text: str
    """Verbatim."""
    key: str
    """The document that has it."""
    start: int
    """Where it begins in the document's text, in characters."""
    score: float
    """From 0 to 1."""
    highlights: tuple[Span, ...] = ()
    """The short answer within `text`."""
    verdict: bool | None = None
    """Of a yes/no question, what the sources say on balance."""

    def marked(self, before: str = "<em>", after: str = "</em>") -> str:
        """The text with its highlights between tags, nothing escaped."""
        return marked(self.text, self.highlights, before, after)


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found."""

    key: str
    """What names it."""
    title: str
    """Its title, empty where it has none."""
    url: str | None
    """Where a person can read it."""
    language: str
    """BCP 47 tag, `und` where unknown."""
    score: float
    """Of recall: reciprocal ranks summed, or BM25 where there are no vectors."""
    relevance: float | None
    """Of semantic ranking, 0 (no relation) to 4 (what was asked for); None where it was not ranked so."""
    captions: tuple[Caption, ...]
    """Why it was found, the best first; none where they were not asked for."""
    fields: Mapping[str, Any]
    """What else is known of it."""


@dataclass(frozen=True, slots=True)
class Results:
    """What was found."""

    query: str
    """What was asked."""
    hits: Sequence[Hit]
    """The documents, the best first."""
    answers: Sequence[Answer] | None
    """Answers, the best first; None where nothing can answer (no model for it), empty where nothing did."""
    count: int
    """Documents that recall found (of which semantic ranking sees the first 50)."""
    seconds: float
    """Time it took."""
    missing: str | None = None
    """What was left out for want of something, in words."""
    lost: Sequence[str] = ()
    """Shards that did not answer: what they hold is missing from these results."""


def marked(text: str, spans: Sequence[Span], before: str, after: str) -> str:
    """A text with stretches between tags; stretches are in order and do not overlap."""
    parts: list[str] = []
    at = 0
    for start, stop in spans:
        parts += [text[at:start], before, text[start:stop], after]
        at = stop
    return "".join([*parts, text[at:]])
