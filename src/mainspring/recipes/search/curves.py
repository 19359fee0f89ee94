"""Curves from a reader's logits to probabilities, and how they are fitted (Platt 1999)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.config import Section
from mainspring.finetune.text_reader import ReadText

RIDGE = 1e-2
"""Pull of weights towards 0."""


def probability(logit: float) -> float:
    """The logistic curve.

    >>> probability(0.0), round(probability(-800.0), 3)
    (0.5, 0.0)
    """
    return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0


class AnswerCurve(Section):
    """Probability that a span answers: a logistic curve of what a reader says."""

    span: float = 1.0
    """Weight of the span's logit over that of no answer."""
    relevance: float = 0.0
    """Weight of the relevance logit."""
    offset: float = 0.0
    """Added to the sum."""
    threshold: float = 0.5
    """Probability from which an answer is shown."""

    def sure(self, span: float, relevance: float) -> float:
        """The probability, from a span's score and the reading's relevance."""
        return probability(self.span * span + self.relevance * relevance + self.offset)


class VerdictCurve(Section):
    """Probability of yes, of several passages weighted by relevance."""

    slope: float = 1.0
    """Weight of the verdict's logit."""
    offset: float = 0.0
    """Added to it."""
    margin: float = 0.2
    """Distance from one half from which a verdict is conclusive."""
    weight: float = 0.5
    """Sum of the passages' probabilities to be relevant from which there is something to go by."""

    def yes(self, verdict: float) -> float:
        """The probability of yes, from a reading's verdict."""
        return probability(self.slope * verdict + self.offset)


class Judged(NamedTuple):
    """A reading, and whether what it says is right."""

    reading: ReadText
    right: bool
    """Of an answer: its best span is. Of a verdict: yes is."""


def logistic(features: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of a logistic curve by Newton's method, the last one that of a constant.

    Args:
        features: [N, F].
        labels: 0 or 1, [N].

    Returns:
        [F + 1].
    """
    x = np.concatenate([features, np.ones((len(features), 1))], 1)
    pull = np.full(x.shape[1], RIDGE)
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - labels) + pull * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(pull)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-9:
            break
    return weights


def fit_answers(judged: Sequence[Judged], precision: float) -> AnswerCurve:
    """The curve of answers, with the least threshold from which so many of those shown are right.

    Args:
        judged: readings with at least one span each.
        precision: share of the answers shown that should be right; where no threshold gives it, the surest
            tenth is shown.
    """
    features = np.asarray([[j.reading.spans[0].score, j.reading.relevance] for j in judged])
    right = np.asarray([float(j.right) for j in judged])
    span, relevance, offset = logistic(features, right)
    sure = 1 / (1 + np.exp(-(features @ [span, relevance] + offset)))
    order = np.argsort(-sure)
    shown = np.arange(1, len(order) + 1)
    good = np.flatnonzero((np.cumsum(right[order]) / shown >= precision) & (shown * 20 >= len(order)))
    last = int(good[-1]) if len(good) else len(order) // 10
    threshold = float(np.clip(sure[order[last]], 0.05, 0.95))
    return AnswerCurve(
        span=float(span), relevance=float(relevance), offset=float(offset), threshold=threshold
    )


def fit_verdict(judged: Sequence[Judged], precision: float) -> VerdictCurve:
    """The curve of yes and no, with the least margin from which so many of those shown are right."""
    features = np.asarray([[j.reading.verdict] for j in judged])
    yes = np.asarray([float(j.right) for j in judged])
    slope, offset = logistic(features, yes)
    p = 1 / (1 + np.exp(-(features[:, 0] * slope + offset)))
    margins = np.abs(p - 0.5)
    right = (p > 0.5) == (yes > 0.5)
    order = np.argsort(-margins)
    shown = np.arange(1, len(order) + 1)
    good = np.flatnonzero((np.cumsum(right[order]) / shown >= precision) & (shown * 20 >= len(order)))
    last = int(good[-1]) if len(good) else len(order) // 20
    return VerdictCurve(
        slope=float(slope), offset=float(offset), margin=float(np.clip(margins[order[last]], 0.02, 0.48))
    )
