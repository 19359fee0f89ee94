"""Caution: the least under which few words of clean text are changed."""

from pathlib import Path

import numpy as np
import pytest

from mainspring.products.spelling import parameters as learnt
from mainspring.products.spelling.cases import cases
from mainspring.products.spelling.engine import engine_of
from mainspring.products.spelling.judge import margins
from mainspring.products.spelling.speller import PARAMETERS, Speller
from mainspring.products.spelling.tokens import tokenize
from mainspring.products.spelling.training.calibrate import least
from support import tiny_speller as tiny

TEXT = "recieve the pakage and serch alot of wrods, cat sistar to gether springe"


@pytest.mark.parametrize("words", [1, 100, 1000, 5000])
def test_the_least_caution_is_what_trying_all_of_them_finds(words: int) -> None:
    rng = np.random.default_rng(words)
    found = [*rng.normal(1, 2, min(words, 200)).tolist(), float("-inf")]
    made = least(found, words, 0.01)
    changed = lambda c: sum(m >= c for m in found)  # noqa: E731
    assert changed(made.caution) <= 0.01 * words and made.after == changed(made.caution)
    assert made.before == changed(0)
    lower = [m for m in found if 0 <= m < made.caution]
    assert not lower or made.caution == 0 or changed(max(lower)) > 0.01 * words


def with_caution(folder: Path, caution: float) -> Speller:
    parameters = learnt.load(folder / PARAMETERS)
    learnt.save(parameters._replace(caution={"en": caution}), folder / PARAMETERS, {})
    return Speller.load(folder)


def test_a_margin_is_the_caution_at_which_a_word_is_left_alone(tmp_path: Path) -> None:
    lexicons = tiny.lexicons(tmp_path)
    parameters = learnt.load(tmp_path / PARAMETERS)
    engine = engine_of(lexicons.load("en"), parameters, "en")
    pending = list(cases(tokenize(TEXT), TEXT, engine))
    places = [
        (case.token.start, m)
        for case, m in zip(pending, margins(engine, parameters.weights, pending), strict=True)
    ]
    assert sum(m > 0 for _, m in places) >= 5
    for start, margin in places:
        for caution, changed in ((margin - 0.01, True), (margin + 0.01, False)):
            if 0 <= caution < 50:
                words = with_caution(tmp_path, caution).correct(TEXT, language="en").words
                there = [w for w in words if w.start <= start < w.stop]
                assert any(w.correction is not None for w in there) == changed, (start, margin)


def test_caution_is_kept_in_the_file(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    assert with_caution(tmp_path, 3.5).engine("en").caution == 3.5
    assert Speller.load(tmp_path).engine("de").caution == 0
    assert with_caution(tmp_path, 40.0).correct(TEXT, language="en").changed is False
