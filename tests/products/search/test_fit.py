"""A ranker's curve fitted to what was chosen."""

from pathlib import Path

import numpy as np
import pytest

from mainspring.errors import DataError, UsageError
from mainspring.products.search import Document, Index
from mainspring.products.search.fit import MOST, Features, calibration_error, features, fitted
from mainspring.products.search.heads import RankerCurve
from support.hashed_words import HashedWords


def drawn(count: int, curve: RankerCurve) -> Features:
    """Candidates whose chances to be chosen are a curve's."""
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(count, 3))
    sums = values @ [1.0, curve.sentence, curve.lexical]
    p = 1 / (1 + np.exp(-curve.slope * (sums - curve.middle)))
    return Features(values, (rng.uniform(size=count) < p).astype(float), np.arange(count) // 50)


def test_the_curve_that_chances_came_from_is_found_again() -> None:
    curve = RankerCurve(sentence=0.5, lexical=0.3, slope=8.0, middle=1.1)
    judged = drawn(40_000, curve)
    found = fitted(judged)
    for name, value in curve.model_dump().items():
        assert getattr(found, name) == pytest.approx(value, abs=0.05 * max(1.0, value)), name
    assert calibration_error(judged, found) < 0.01
    assert calibration_error(judged, RankerCurve()) > 0.05


def test_the_calibration_error_is_that_of_a_loop() -> None:
    judged, curve = drawn(500, RankerCurve()), RankerCurve(sentence=0.1, slope=4.0)
    sums = judged.values @ [1.0, 0.1, 0.3]
    total = 0.0
    p = [1 / (1 + np.exp(-4.0 * (s - 0.55))) for s in sums]
    for b in range(10):
        inside = [i for i in range(500) if b / 10 <= p[i] < (b + 1) / 10]
        if inside:
            total += abs(sum(p[i] - judged.chosen[i] for i in inside)) / 500
    assert calibration_error(judged, curve) == pytest.approx(total)


def test_too_little_or_nonsense_is_refused() -> None:
    with pytest.raises(DataError, match="2 queries .* needs 20"):
        fitted(drawn(100, RankerCurve()))
    judged = drawn(5000, RankerCurve())
    with pytest.raises(DataError, match="no greater cosines"):
        fitted(judged._replace(values=-judged.values))


def test_a_passage_that_says_less_than_its_sentences_does_not_count_against_them() -> None:
    judged = drawn(5000, RankerCurve(sentence=50.0, slope=0.2, middle=25.0))
    values = judged.values.copy()
    values[:, 0] = values[:, 1] + 0.01 * (0.5 - judged.chosen)  # alike, and a little less where it was chosen
    found = fitted(judged._replace(values=values))
    assert found.sentence == MOST and found.slope > 0
    assert calibration_error(judged._replace(values=values), found) < 0.02


def test_an_index_keeps_a_curve_that_was_fitted_to_its_clicks(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(30)]
    with Index.create(tmp_path / "i", encoder=HashedWords(dim=4096)) as index:
        index.add(
            [
                Document(w, f"{w} {words[i - 1]} some text about it", language="en")
                for i, w in enumerate(words)
            ]
        )
        judged = features(index, {w: [w] for w in words} | {"unknown": ["gone"]})
        assert len(set(judged.query.tolist())) == 30  # what was not found says nothing
        assert judged.values.shape[1] == 3 and 0 < judged.chosen.mean() < 1
        before = index.search("w3 text").hits[0].relevance
        index.set_curve(RankerCurve(middle=5.0))
    with Index.open(tmp_path / "i", encoder=HashedWords(dim=4096)) as again:
        assert again.curve.middle == 5.0
        now = again.search("w3 text").hits[0].relevance
        assert before is not None and now is not None and now < before
    with (
        Index.create(tmp_path / "w", encoder=None) as words_alone,
        pytest.raises(UsageError, match="vectors"),
    ):
        features(words_alone, {"a": ["b"]})
