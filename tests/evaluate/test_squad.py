"""SQuAD's measures on cases worked out by hand."""

import pytest

from mainspring.evaluate.squad import exact_match, f1, normalised


def test_case_articles_and_punctuation_do_not_count() -> None:
    assert normalised("The Broncos!") == normalised("broncos")
    assert exact_match("a 1,000 men", ["1000 men"]) == 1.0
    assert exact_match("Denver", ["Broncos", "denver."]) == 1.0
    assert exact_match("Denver Broncos", ["Denver"]) == 0.0
    assert exact_match("", ["the"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "golds", "score"),
    [
        ("the Denver Broncos", ["Denver"], 2 / 3),
        ("red red blue", ["red blue blue"], 2 / 3),
        ("red", ["blue"], 0.0),
        ("red", ["blue", "red car"], 2 / 3),
        ("", ["red"], 0.0),
        ("", ["a"], 1.0),
        ("x", [], 0.0),
    ],
)
def test_f1_is_of_words_and_the_best_answer(answer: str, golds: list[str], score: float) -> None:
    assert f1(answer, golds) == pytest.approx(score)
