"""What is indexed: documents with a key, and the passages and sentences that they are cut into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mainspring.errors import DataError

Value = str | int | float | bool | None
"""A field of a document beside its text."""

RESERVED = ("key", "title", "text", "url", "language", "source")
"""Names that a document has already: no field of its own may take them."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be found.

    Raises:
        DataError: the key is empty, or a field takes a name that a document has already.
    """

    key: str
    """What names it: adding another document of the same key replaces it."""
    text: str
    """The text."""
    title: str = ""
    """Its title, where it has one."""
    url: str | None = None
    """Where a person can read it."""
    language: str | None = None
    """BCP 47 tag (None: found out from the text)."""
    fields: Mapping[str, Value] = field(default_factory=dict)
    """More to filter by and to show."""

    def __post_init__(self) -> None:
        if not self.key.strip():
            raise DataError("a document's key is empty; give each document a key of its own")
        taken = sorted(set(self.fields) & set(RESERVED))
        if taken:
            raise DataError(
                f"document {self.key!r}: a field is named {taken[0]!r}, which a document has already"
            )

    @property
    def hash(self) -> bytes:
        """Digest of all that it says, 16 bytes: equal documents need not be indexed twice."""
        parts = [self.key, self.text, self.title, self.url, self.language, dict(sorted(self.fields.items()))]
        content = json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, digest_size=16).digest()


class Span(NamedTuple):
    """A stretch of a text, in characters."""

    start: int
    """First character."""
    stop: int
    """One past the last."""


class Passage(NamedTuple):
    """A part of a document that is ranked as one."""

    start: int
    """Where it begins in the document's text, in characters. Passages lie end to end: joined, they are the
    text."""
    text: str
    """Its text, white space at its end included."""
    sentences: tuple[Span, ...]
    """Its sentences, within `text`."""
