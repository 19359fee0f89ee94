"""What is measured, by a reader that answers as a test says."""

import random
from pathlib import Path

import numpy as np
import pytest

from mainspring.finetune.text_reader import FoundSpan, ReadText
from mainspring.recipes.search.curves import AnswerCurve
from mainspring.recipes.search.examples import Asked
from mainspring.recipes.search.kept import kept
from mainspring.recipes.search.measures import judged_answers, one_a_paragraph, shown_answers, squad
from mainspring.recipes.search.tuning import wrong_texts

CONTEXTS = ("the red house", "a blue car and a red car", "green")
ASKED = [
    Asked("1", 0, 0, "what is red?", CONTEXTS[0], ("house",), 8),
    Asked("2", 0, 1, "what is blue?", CONTEXTS[1], ("car", "blue car"), 7),
    Asked("3", 0, 1, "what else?", CONTEXTS[1], ("red car",), 17),
    Asked("4", 1, 2, "what?", CONTEXTS[2], ("green",), 0),
]


class LastWords:
    """Answers with the last two words of a text, surer of the longer ones."""

    def read(self, pairs):  # type: ignore[no-untyped-def]
        found = []
        for _, text in pairs:
            start = len(text) - len(" ".join(text.split()[-2:]))
            spans = (FoundSpan(start, len(text), float(len(text) - 10)),) if " " in text else ()
            found.append(ReadText(0.0, 0.0, spans, np.zeros((0, 2), np.int64), np.zeros(0, np.float32)))
        return found


def test_squads_measures_are_means_over_questions() -> None:
    found = squad(LastWords(), ASKED)  # type: ignore[arg-type]
    # "red house" for house; "red car" for car or blue car, and for red car; nothing for green
    assert found == {"questions": 4, "exact match": 25.0, "F1": pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 4)}


def test_answers_are_looked_for_in_the_other_language() -> None:
    other = [a._replace(context=f"{a.context} das Haus", answers=("das Haus",)) for a in ASKED]
    assert squad(LastWords(), ASKED, other)["exact match"] == 100.0  # type: ignore[arg-type]


def test_texts_that_do_not_answer_are_judged_wrong() -> None:
    wrong = wrong_texts(ASKED, random.Random(0))
    assert set(wrong) == {"1", "3"}  # every second question, where its article has another paragraph
    assert wrong["1"] == CONTEXTS[1] and wrong["3"] == CONTEXTS[0]
    judged = judged_answers(LastWords(), ASKED, wrong)  # type: ignore[arg-type]
    assert [j.right for j in judged] == [True, True, True, False, False]
    found = shown_answers(judged, AnswerCurve(threshold=0.99))
    assert found == {"texts": 5, "shown": 60.0, "right of those shown": pytest.approx(200 / 3)}


def test_one_question_is_taken_of_each_paragraph() -> None:
    assert [a.id for a in one_a_paragraph(ASKED)] == ["1", "2", "4"]


def test_results_are_kept(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"a": len(calls)}

    path = tmp_path / "results.json"
    assert [kept(path, name, compute)["a"] for name in ("x", "x", "y", "x")] == [1, 1, 2, 1]
