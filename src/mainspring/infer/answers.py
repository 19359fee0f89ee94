"""What an encoder's tasks give: embeddings, classes, tags and spans, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of texts."""

    vectors: Tensor
    """fp32 [texts, width], on the CPU."""
    tokens: tuple[int, ...]
    """Tokens of each text that were read, its frame included."""
    cut: tuple[bool, ...]
    """Whether a text was longer than the model reads, and its end was left out."""


@dataclass(frozen=True, slots=True)
class Classification:
    """Classes of a text or pair."""

    label: str
    """The most probable class."""
    score: float
    """Its probability."""
    scores: Mapping[str, float]
    """Probability of every class; where several may hold at once they do not sum to 1."""
    labels: tuple[str, ...]
    """Classes that hold: the most probable one; where several may, those of probability 0.5 and more."""
    cut: bool = False
    """Whether the text was longer than the model reads, and its end was left out."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A word's tag."""

    text: str
    """The word, verbatim."""
    start: int
    """Its first character in the text."""
    end: int
    """The character after its last."""
    label: str
    score: float
    """Probability of the label."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Words that belong together."""

    text: str
    """Verbatim, from the first word to the last."""
    start: int
    end: int
    label: str
    """What follows B- and I- in the words' labels."""
    score: float
    """The mean of the words'."""


@dataclass(frozen=True, slots=True)
class Tags:
    """Tags of a text."""

    words: tuple[Tag, ...]
    """Every word, in order."""
    entities: tuple[Entity, ...]
    """Runs of words that are something (not "O")."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer found in a context."""

    text: str
    """Verbatim; empty where the context holds none."""
    start: int
    """Its first character in the context; -1 where there is none."""
    end: int
    """The character after its last; -1 where there is none."""
    score: float
    """Logit of the best span."""
    no_answer: float
    """Logit of there being none, at the first token."""
    probability: float
    """Of this answer (or of none), among the best spans and none."""

    @property
    def found(self) -> bool:
        """Whether there is one."""
        return self.start >= 0
