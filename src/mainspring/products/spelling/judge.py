"""What becomes of a word that is looked into: how likely candidates are, and whether one takes its place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mainspring.products.spelling.cases import Case
from mainspring.products.spelling.engine import Asked, LanguageEngine, Proposals
from mainspring.products.spelling.rank import Weights, probabilities
from mainspring.products.spelling.results import Candidate, WordResult
from mainspring.products.spelling.tokens import like

JOINED = 0.9
"""Probability of a word in two parts that are none, or of which one is none, where there is no caution."""
REAL_WORD = 0.8
"""Probability from which a known word is corrected, whatever the threshold below."""
TRUST = 6.0
"""Score of a known word above that of what it might be a slip for: the log odds that it is right."""
SHOWN = 5
"""Candidates of a word that a result has."""


def scores(
    engine: LanguageEngine, weights: Weights, asked: Sequence[Asked]
) -> tuple[list[list[Candidate]], list[float]]:
    """Candidates of each string by probability, and the probability that each is right."""
    made = engine.propose(asked)
    added = _trust(asked, made)
    chance, stays = probabilities(weights, made.rows, made.features, made.unknown, added)
    scored: list[list[Candidate]] = [[] for _ in asked]
    for row, text, value in zip(made.rows.tolist(), made.texts, chance.tolist(), strict=True):
        scored[row].append(Candidate(text, value))
    for candidates in scored:
        candidates.sort(key=lambda c: -c.probability)
    return scored, stays.tolist()


def judge(
    engine: LanguageEngine, weights: Weights, pending: Sequence[Case], text: str, threshold: float, at: int
) -> list[WordResult]:
    """Results of cases, the text up to `at` being settled."""
    scored, _ = scores(engine, weights, [case.asked for case in pending])
    joined = _joined(engine.caution)
    results: list[WordResult] = []
    for case, candidates in zip(pending, scored, strict=True):
        if case.token.start < at:
            continue  # it was joined with the word before it
        if case.whole is not None and case.start < at:
            case = case._replace(whole=None)  # its neighbour is another word's
        result = _real_word(case, candidates, threshold) if case.asked.known else None
        if not case.asked.known:
            result = _result(case, candidates, text, threshold, joined)
        if result is not None:
            results.append(result)
            at = result.stop
    return results


def margins(engine: LanguageEngine, weights: Weights, pending: Sequence[Case]) -> list[float]:
    """The caution, added to what the engine has, from which each case of an unknown word would be left alone;
    negative where it is left alone as it is.

    A candidate of probability p is put where p >= 1/2, thus where the odds of "it is right" times e^caution
    are at most those of the candidate less those of all others.
    """
    scored, stays = scores(engine, weights, [case.asked for case in pending])
    found: list[float] = []
    for case, candidates, stay in zip(pending, scored, stays, strict=True):
        if case.asked.known:
            continue
        best = candidates[0].probability if candidates else 0.0
        ahead = 2 * best - (1 - stay)
        margin = math.log(ahead / stay) if ahead > 0 and stay > 0 else -math.inf
        if case.whole is not None:
            margin = max(margin, math.log(JOINED / (1 - JOINED)) - engine.caution)
        found.append(margin)
    return found


def _joined(caution: float) -> float:
    """`JOINED` where "it is right" has that much more log odds."""
    return 1 / (1 + (1 - JOINED) / JOINED * math.exp(min(caution, 60.0)))


def _result(
    case: Case, candidates: list[Candidate], text: str, threshold: float, joined: float
) -> WordResult:
    token = case.token
    shown = tuple(Candidate(like(c.text, token.text), c.probability) for c in candidates[:SHOWN])
    best = shown[0] if shown else None
    if case.whole is not None and (best is None or best.probability < joined):
        written = text[case.start : case.stop]
        whole = Candidate(like(case.whole, written), joined)
        correction = whole.text if threshold <= joined else None
        return WordResult(case.start, case.stop, written, (whole, *shown[: SHOWN - 1]), correction, "join")
    correction = best.text if best is not None and best.probability >= threshold else None
    if correction == token.text:
        correction = None
    kind = "split" if correction is not None and " " in correction else "nonword"
    return WordResult(token.start, token.stop, token.text, shown, correction, kind)


def _trust(asked: Sequence[Asked], made: Proposals) -> NDArray[np.float64]:
    """What a known word has before other known words, as a score."""
    own = [
        asked[row].known and text == asked[row].word for row, text in zip(made.rows, made.texts, strict=True)
    ]
    return np.where(own, TRUST, 0.0)


def _real_word(case: Case, candidates: list[Candidate], threshold: float) -> WordResult | None:
    """A known word that another one fits better in its place; None where none surely does."""
    token = case.token
    shown = tuple(Candidate(like(c.text, token.text), c.probability) for c in candidates[:SHOWN])
    best = shown[0] if shown else None
    if (
        best is None
        or " " in best.text
        or best.text == token.text
        or best.probability < max(threshold, REAL_WORD)
    ):
        return None
    return WordResult(token.start, token.stop, token.text, shown, best.text, "realword")
