"""Documents, and the account of what was read and what could not be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_EXAMPLES = 100
"""Faults that a report keeps in full; all are counted."""


class Document(NamedTuple):
    """A text with where it comes from."""

    text: str
    """The text."""
    source: str
    """Name of the source."""
    lang: str | None
    """BCP 47 tag where known."""
    id: str
    """Where it is: file (`archive!member` in a zip) and line."""


class Fault(NamedTuple):
    """Something in the input that could not be read."""

    file: str
    """Name of the file, `archive!member` in a zip."""
    line: int | None
    """Line, from 1; None where the fault is the file's."""
    reason: str
    """What is wrong."""

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f', line {self.line}'}: {self.reason}"


@dataclass
class ReadReport:
    """Counts of what was read, and the faults found on the way."""

    files: int = 0
    """Files opened."""
    documents: int = 0
    """Documents given."""
    bytes: int = 0
    """UTF-8 bytes of their text."""
    faults: int = 0
    """Lines or files that could not be read and were left out."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    examples: list[Fault] = field(default_factory=list)
    """The first faults, `MAX_EXAMPLES` at most."""

    def fault(self, file: str, line: int | None, kind: str, detail: str = "") -> None:
        """Count a fault of a kind and keep it as an example while there is room."""
        self.faults += 1
        self.reasons[kind] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(Fault(file, line, f"{kind}: {detail}" if detail else kind))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "files": self.files,
            "documents": self.documents,
            "bytes": self.bytes,
            "faults": self.faults,
            "reasons": dict(sorted(self.reasons.items())),
            "examples": [fault._asdict() for fault in self.examples],
        }
