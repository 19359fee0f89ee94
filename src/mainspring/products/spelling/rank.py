"""Choosing among candidates: a log-linear model whose alternatives include that nothing is wrong.

The score of a candidate adds the channel's cost, the word's frequency and a few facts about the pair, each
with a weight; that of "it is a word we do not know" adds how word-like it is. A softmax over them gives
probabilities; the weights are those that make the tuning half's choices likeliest, so they are calibrated.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEATURES = (
    "channel",
    "frequency",
    "first",
    "length",
    "sounds",
    "letters",
    "exact",
    "split",
    "join",
    "context",
)
"""Of a candidate."""
UNKNOWN = ("bias", "letters", "unknown", "length", "capital")
"""Of what was written, should it be right."""


class Weights(NamedTuple):
    """A weight for each feature."""

    candidate: Floats
    """[len(FEATURES)]"""
    unknown: Floats
    """[len(UNKNOWN)]"""


def probabilities(
    weights: Weights, rows: NDArray[np.int64], features: Floats, unknown: Floats, extra: Floats | None = None
) -> tuple[Floats, Floats]:
    """Probability of each candidate, and of each string that it is right as it is.

    Args:
        weights: of the features.
        rows: [C] number of the string that a candidate is for, in order.
        features: [C, F].
        unknown: [N, U].
        extra: [C] what else is to be added to scores.

    Returns:
        [C] and [N].
    """
    scores = features @ weights.candidate
    if extra is not None:
        scores = scores + extra
    stays = unknown @ weights.unknown
    most = stays.copy()
    np.maximum.at(most, rows, scores)
    raised = np.exp(scores - most[rows])
    total = np.exp(stays - most)
    np.add.at(total, rows, raised)
    return raised / total[rows], np.exp(stays - most) / total
