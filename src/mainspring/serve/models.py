"""What is served under one name: what it can do, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mainspring.infer.chat_template import ChatTemplate
from mainspring.serve.worker import Writes

Texts = Sequence[str] | Sequence[tuple[str, str]]
"""Texts, or pairs of texts."""


class Embedded(Protocol):
    """Vectors of texts; `infer.answers.Embeddings`."""

    @property
    def vectors(self) -> Tensor:
        """fp32 [texts, width]."""
        ...

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each text."""
        ...


class Classified(Protocol):
    """Classes of a text; `infer.answers.Classification`."""

    @property
    def label(self) -> str:
        """The most probable class."""
        ...

    @property
    def score(self) -> float:
        """Its probability."""
        ...

    @property
    def scores(self) -> Mapping[str, float]:
        """Probability of every class."""
        ...


class Reads(Protocol):
    """What a server asks of an engine that reads texts. Not by two threads at once, but for `count`."""

    @property
    def ranks(self) -> bool:
        """Whether `score` tells how well a passage answers a question (else vectors are compared)."""
        ...

    def embed(self, texts: Sequence[str]) -> Embedded:
        """A vector of each text."""
        ...

    def classify(self, texts: Texts) -> Sequence[Classified]:
        """Classes of each text, or pair; UsageError where the model has no head for that."""
        ...

    def score(self, texts: Texts) -> Sequence[float]:
        """One number of each text, or pair; UsageError where the model has no head for that."""
        ...

    def count(self, texts: Texts) -> list[int]:
        """Tokens of each text, or pair."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that is served."""

    writer: Writes | None = None
    """Writes text."""
    reader: Reads | None = None
    """Reads texts."""
    template: ChatTemplate | None = None
    """How it reads conversations."""
    alone: str | None = None
    """Why its requests are written one after another; None: side by side."""

    @property
    def abilities(self) -> tuple[str, ...]:
        """The routes that it answers."""
        writes = ("completions", "chat.completions") if self.template is not None else ("completions",)
        reads = ("embeddings", "rerank", "classify") if self.reader is not None else ()
        return (*(writes if self.writer is not None else ()), *reads)
