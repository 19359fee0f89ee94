"""Answers and verdicts from readings that a test writes down."""

import math

import numpy as np
import pytest

from mainspring.finetune.text_reader import FoundSpan, ReadText
from mainspring.products.search.answers import ReaderAnswerer, around
from mainspring.products.search.documents import Span
from mainspring.products.search.heads import Heads, HeadsSettings
from mainspring.products.search.highlights import stretch
from mainspring.products.search.questions import is_polar
from mainspring.products.search.store import StoredDocument, StoredPassage
from mainspring.recipes.search.curves import AnswerCurve, VerdictCurve

TEXT = "A mainspring drives a watch. It is a coil of steel. Winding stores energy in it."
SENTENCES = (Span(0, 28), Span(29, 51), Span(52, 80))


def passage(number: int, text: str = TEXT, start: int = 0) -> StoredPassage:
    return StoredPassage(number, number, start, text, SENTENCES)


def document(number: int) -> StoredDocument:
    return StoredDocument(number, f"d{number}", "", None, "en", {})


def read(
    *, words: str = "coil of steel", score: float = 3.0, relevance: float = 2.0, verdict: float = 0.0
) -> ReadText:
    at = TEXT.index(words)
    tokens = [(m, m + 1) for m in range(len(TEXT))]
    marks = np.full(len(TEXT), -5.0, np.float32)
    marks[at : at + len(words)] = 2.0
    return ReadText(relevance, verdict, (FoundSpan(at, at + len(words), score),), np.asarray(tokens), marks)


class Scripted:
    """Reads what a test says."""

    def __init__(self, *readings: ReadText) -> None:
        self.readings, self.pairs = list(readings), []

    def read(self, pairs):  # type: ignore[no-untyped-def]
        self.pairs += pairs
        return self.readings[: len(pairs)]


def answerer(*readings: ReadText, **curves: object) -> ReaderAnswerer:
    settings = HeadsSettings(encoder="x", **curves)  # type: ignore[arg-type]
    return ReaderAnswerer(Heads(settings, Scripted(*readings)))  # type: ignore[arg-type]


def ask(made: ReaderAnswerer, question: str, count: int, limit: int = 5):  # type: ignore[no-untyped-def]
    numbers = range(1, count + 1)
    return made.answers(
        question, [passage(n, start=100) for n in numbers], [document(n) for n in numbers], limit
    )


def test_an_answer_is_the_sentence_with_the_span_marked() -> None:
    (found,) = ask(answerer(read()), "what is it made of?", 1)
    assert found.text == "It is a coil of steel."
    assert found.marked("[", "]") == "It is a [coil of steel]."
    assert found.start == 100 + 29 and found.key == "d1" and found.verdict is None
    assert found.score == pytest.approx(1 / (1 + math.exp(-3.0)))


def test_what_is_not_sure_enough_is_not_answered() -> None:
    curve = AnswerCurve(span=1.0, relevance=1.0, offset=-4.0, threshold=0.6)
    assert ask(answerer(read(score=2.0), answer=curve), "what?", 1) == []
    assert len(ask(answerer(read(score=3.0), answer=curve), "what?", 1)) == 1
    assert ask(answerer(read(score=3.0, relevance=-2.0), answer=curve), "what?", 1) == []


def test_one_answer_is_given_once_by_the_surest_and_the_surest_comes_first() -> None:
    readings = [read(score=1.0), read(words="stores energy", score=2.0), read(score=4.0)]
    found = ask(answerer(*readings), "what?", 3)
    assert [(a.key, a.text[a.highlights[0].start : a.highlights[0].stop]) for a in found] == [
        ("d3", "coil of steel"),
        ("d2", "stores energy"),
    ]
    assert len(ask(answerer(*readings), "what?", 3, limit=1)) == 1


def test_a_verdict_is_the_mean_of_passages_weighted_by_relevance() -> None:
    readings = [read(relevance=3.0, verdict=2.0), read(relevance=-3.0, verdict=-4.0), read(verdict=1.0)]
    curve = VerdictCurve(margin=0.1)
    (found,) = ask(answerer(*readings, verdict=curve), "is it of steel?", 3)

    def p(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    weights, says = [p(3.0), p(-3.0), p(2.0)], [p(2.0), p(-4.0), p(1.0)]
    expected = sum(w * s for w, s in zip(weights, says, strict=True)) / sum(weights)
    assert found.verdict is True and found.score == pytest.approx(expected)
    assert found.key == "d1" and found.text == "It is a coil of steel."
    (no,) = ask(answerer(read(verdict=-3.0), verdict=curve), "is it of wood?", 1)
    assert no.verdict is False and no.score == pytest.approx(p(3.0))


@pytest.mark.parametrize(
    "readings",
    [
        [read(verdict=3.0), read(verdict=-3.0)],  # they disagree
        [read(verdict=0.2)],  # it says little
        [read(verdict=5.0, relevance=-3.0)],  # it is about something else
        [],
    ],
)
def test_what_is_not_conclusive_is_not_shown(readings: list[ReadText]) -> None:
    assert ask(answerer(*readings), "is it of steel?", len(readings)) == []


def test_only_the_first_passages_are_read() -> None:
    reader = Scripted(read(), read())
    made = ReaderAnswerer(Heads(HeadsSettings(encoder="x"), reader), read=2)  # type: ignore[arg-type]
    ask(made, "what?", 6)
    assert len(reader.pairs) == 2


def test_a_span_over_two_sentences_is_shown_with_both() -> None:
    assert around(passage(1), Span(40, 60)) == Span(29, 80)
    assert around(passage(1), Span(28, 29)) == Span(28, 29)  # between two


def test_a_highlight_is_of_whole_words_around_the_best_token() -> None:
    reading = read(words="oil")
    span = stretch(reading, TEXT)
    assert span is not None and TEXT[span.start : span.stop] == "coil"
    assert stretch(reading._replace(highlights=np.full(len(TEXT), -1.0, np.float32)), TEXT) is None
    assert stretch(reading._replace(highlights=np.zeros(0, np.float32)), "") is None


@pytest.mark.parametrize(
    "question",
    [
        "is steel magnetic",
        "Does it rain?",
        "can't it",
        "ist Stahl magnetisch?",
        "есть ли у него дом?",
        "这是钢吗？",
    ],
)
def test_questions_of_yes_or_no(question: str) -> None:
    assert is_polar(question)


@pytest.mark.parametrize(
    "question", ["what is it", "how many are there?", "is it red or blue?", "steel", "island"]
)
def test_other_questions(question: str) -> None:
    assert not is_polar(question)
