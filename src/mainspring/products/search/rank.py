"""Order: lists fused by reciprocal rank, then the first 50 documents ranked by meaning.

The ranker is a protocol; `BiEncoderRanker` compares vectors of query, passage and sentences with what BM25
says. Its weights were chosen on Cranfield's queries; the places of 1, 2 and 3 on the scale of 0 to 4 were set
by hand and are not yet calibrated against judgements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

RANKED = 50
"""Documents that semantic ranking sees, however many are asked for."""
_RRF = 60


class Candidate(NamedTuple):
    """A document as recall found it."""

    document: int
    """Its number."""
    score: float
    """Of fusion."""
    passages: tuple[int, ...]
    """Its passages that were found, the best first."""
    lexical: float
    """BM25 of its best passage; 0 where no word matched."""


class Evidence(NamedTuple):
    """What a ranker knows of a candidate."""

    lexical: float
    """BM25 of the best passage."""
    passages: NDArray[np.float32]
    """Cosines of the query and the passages, [p]."""
    sentences: NDArray[np.float32]
    """Cosines of the query and their sentences, [s]."""


class Ranker(Protocol):
    """What search asks of a semantic ranker."""

    def relevance(
        self, query: str, texts: Sequence[str], evidence: Sequence[Evidence]
    ) -> NDArray[np.float64]:
        """How well each candidate serves the query, 0 (no relation) to 4 (what was asked for).

        Args:
            query: what was asked.
            texts: the best passage of each candidate.
            evidence: what recall and the encoder say of each.
        """
        ...


def compared(evidence: Sequence[Evidence]) -> list[tuple[float, float, float]]:
    """Of each candidate the best passage's cosine, the best sentence's, and BM25 over that of the candidate
    with the greatest."""
    top = max((e.lexical for e in evidence), default=0.0) or 1.0
    return [
        (float(e.passages.max(initial=0.0)), float(e.sentences.max(initial=0.0)), e.lexical / top)
        for e in evidence
    ]


class BiEncoderRanker:
    """Ranks by cosines of query, passage and best sentence, and by BM25 relative to the best candidate's."""

    def __init__(
        self, *, sentence: float = 0.0, lexical: float = 0.3, slope: float = 9.0, middle: float = 0.55
    ) -> None:
        """Weights beside the passage's cosine, and the logistic curve from their sum to 0..4."""
        self.sentence, self.lexical, self.slope, self.middle = sentence, lexical, slope, middle

    def relevance(
        self, query: str, texts: Sequence[str], evidence: Sequence[Evidence]
    ) -> NDArray[np.float64]:
        """See `Ranker.relevance`."""
        sums = [p + self.sentence * s + self.lexical * w for p, s, w in compared(evidence)]
        return np.asarray([4.0 / (1.0 + math.exp(-self.slope * (s - self.middle))) for s in sums])


def fuse(lists: Sequence[Sequence[int]], constant: int = _RRF) -> dict[int, float]:
    """Sum over lists of 1 / (constant + rank), by item (Cormack, Clarke and Büttcher, 2009).

    >>> fuse([[7, 9], [9]], constant=0)
    {7: 1.0, 9: 1.5}
    """
    scores: dict[int, float] = {}
    for found in lists:
        for rank, item in enumerate(found, 1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (constant + rank)
    return scores
