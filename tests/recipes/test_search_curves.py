"""Curves and thresholds beside scikit-learn and by hand."""

import math

import numpy as np
import pytest

from mainspring.finetune.text_reader import FoundSpan, ReadText
from mainspring.recipes.search.curves import RIDGE, Judged, fit_answers, fit_verdict, logistic
from mainspring.recipes.search.measures import shown_answers, verdicts


def reading(score: float = 0.0, relevance: float = 0.0, verdict: float = 0.0) -> ReadText:
    return ReadText(
        relevance, verdict, (FoundSpan(0, 1, score),), np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    )


def test_logistic_weights_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = (x @ [2.0, -1.0, 0.0] + rng.normal(size=400) > 0.3).astype(float)
    ours = logistic(x, y)
    # The library does not pull the constant: give it a column of ones in its place.
    fitted = sklearn.LogisticRegression(C=1 / RIDGE, fit_intercept=False, tol=1e-10, max_iter=1000)
    fitted.fit(np.concatenate([x, np.ones((400, 1))], 1), y)
    np.testing.assert_allclose(ours, fitted.coef_[0], rtol=1e-4, atol=1e-4)


def test_the_threshold_is_the_least_that_gives_the_precision() -> None:
    rng = np.random.default_rng(1)
    judged = [Judged(reading(s), bool(s + rng.normal() > 0)) for s in rng.normal(size=600) * 2]
    curve = fit_answers(judged, 0.9)
    assert curve.span > 0
    found = shown_answers(judged, curve)
    assert found["right of those shown"] >= 89 and 20 < found["shown"] < 80
    looser = fit_answers(judged, 0.6)
    assert looser.threshold < curve.threshold
    assert shown_answers(judged, looser)["shown"] > found["shown"]


def test_a_verdicts_margin_and_accuracy() -> None:
    rng = np.random.default_rng(2)
    judged = [Judged(reading(verdict=v), bool(v + rng.normal() > -1)) for v in rng.normal(size=800) * 2]
    curve = fit_verdict(judged, 0.9)
    found = verdicts(judged, curve)
    yes = sum(j.right for j in judged) / len(judged)
    assert math.isclose(found["majority"], 100 * max(yes, 1 - yes))
    assert found["accuracy"] > found["majority"]
    assert found["right of the conclusive"] >= 89 and 0 < found["conclusive"] < 100
    assert curve.offset > 0  # yes is likelier than the logit says
