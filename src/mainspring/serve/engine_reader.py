"""An engine as what a service reads texts with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mainspring.serve.models import Classified, Embedded, Texts
from mainspring.text.tokenizer import Tokenizer


class Task(Protocol):
    """What an engine does with texts beside writing."""

    @property
    def task(self) -> str | None:
        """What its head is for; None: there is none."""
        ...


@runtime_checkable
class ReadingEngine(Protocol):
    """An engine that also embeds texts, classifies and scores them."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        ...

    @property
    def tasks(self) -> Task | None:
        """What it does with texts; None: it only writes."""
        ...

    @property
    def writes(self) -> bool:
        """Whether it writes text."""
        ...

    def embed(self, texts: Sequence[str]) -> Embedded:
        """A vector of each text."""
        ...

    def classify(self, texts: Texts) -> Sequence[Classified]:
        """Classes of each text, or pair."""
        ...

    def score(self, texts: Texts) -> Sequence[float]:
        """One number of each text, or pair."""
        ...


class EngineReader:
    """Embeddings, classes and scores of an engine; see `serve.models.Reads`."""

    def __init__(self, engine: ReadingEngine) -> None:
        """`engine` reads from a single stack."""
        self._engine = engine
        self.ranks = engine.tasks is not None and engine.tasks.task == "score"
        """Whether `score` tells how well a passage answers a question."""

    def embed(self, texts: Sequence[str]) -> Embedded:
        """A vector of each text."""
        return self._engine.embed(texts)

    def classify(self, texts: Texts) -> Sequence[Classified]:
        """Classes of each text, or pair; UsageError where the model has no head for that."""
        return self._engine.classify(texts)

    def score(self, texts: Texts) -> Sequence[float]:
        """One number of each text, or pair; UsageError where the model has no head for that."""
        return self._engine.score(texts)

    def count(self, texts: Texts) -> list[int]:
        """Tokens of each text, or pair, without what frames them."""
        parts = [[text] if isinstance(text, str) else list(text) for text in texts]
        counts = iter(self._engine.tokenizer.encode_batch([part for one in parts for part in one]))
        return [sum(len(next(counts)) for _ in one) for one in parts]
