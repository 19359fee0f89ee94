"""How far a build has come, and what it read and wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mainspring.data.documents import ReadReport


class Progress(NamedTuple):
    """How far a build has come."""

    stage: str
    """"sample", "tokenizer" or "encode"."""
    source: str
    """The source at hand."""
    documents: int
    """Documents taken in this stage."""
    bytes: int
    """UTF-8 bytes of their text."""
    tokens: int
    """Tokens made of them."""
    seconds: float
    """Since the stage began."""


@dataclass
class BuildReport:
    """What a build read and wrote."""

    directory: Path
    """Where it is."""
    sources: dict[str, ReadReport] = field(default_factory=dict)
    """What was read of each source, and what could not be."""
    documents: dict[str, int] = field(default_factory=lambda: {"train": 0, "holdout": 0})
    """Documents of each split."""
    tokens: dict[str, int] = field(default_factory=lambda: {"train": 0, "holdout": 0})
    """Tokens of each split, separators included."""
    bytes: int = 0
    """UTF-8 bytes of normalised text."""
    shards: int = 0
    """Shards written or found unchanged."""
    vocab_size: int = 0
    """Of the tokenizer."""
    tokenizer_seconds: float = 0.0
    """Time to sample and train the tokenizer, 0 where it was given."""
    seconds: float = 0.0
    """Time to read, encode and write."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know."""

    @property
    def faults(self) -> int:
        """Lines and files left out."""
        return sum(report.faults for report in self.sources.values())

    @property
    def bytes_per_second(self) -> float:
        """Text encoded a second."""
        return self.bytes / self.seconds if self.seconds else 0.0
