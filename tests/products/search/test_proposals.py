"""Questions that rules make of statements, and those that stand in a text."""

import pytest

from mainspring.products.search.passages import sentences
from mainspring.products.search.proposals import proposals
from mainspring.products.search.store import StoredPassage


def made(text: str) -> list[tuple[str, str]]:
    passage = StoredPassage(1, 1, 0, text, tuple(sentences(text)))
    return [(p.question, text[p.answer.start : p.answer.stop]) for p in proposals(passage)]


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("A mainspring is a coil of steel that drives a watch.", "What is a mainspring?"),
        ("The escapement is used to count the beats of a clock.", "What is the escapement used for?"),
        ("WAL stands for write-ahead log.", "What does WAL stand for?"),
        ("A movement consists of a train and an escapement.", "What does a movement consist of?"),
        ("os.getcwd() returns the current working directory.", "What does os.getcwd() return?"),
        ("To wind the watch, turn the crown: use two fingers.", None),
        ("To remove a package, use the command pip uninstall.", "How do I remove a package?"),
        ("Use the crown to set the hands of a watch.", "How do I set the hands of a watch?"),
        ("It is a coil of steel that drives a watch.", None),
        ("There is a coil of steel in every watch.", None),
        ("Springs store energy.", None),
    ],
)
def test_statements_become_the_question_that_they_answer(statement: str, question: str | None) -> None:
    assert made(statement) == ([] if question is None else [(question, statement)])


def test_a_question_that_stands_in_a_text_is_answered_by_what_follows() -> None:
    text = "Q: How is a watch wound?\n\nBy its crown. Turn it twenty times. Some wind themselves."
    assert made(text) == [
        ("How is a watch wound?", "By its crown. Turn it twenty times. Some wind themselves.")
    ]
    assert made("How is a watch wound? Why do you ask?") == []
    assert made("Nobody knows what a watch is?") == []  # nothing follows
    assert made("Why? Because of the spring in it.") == []  # too short to mean anything alone


def test_each_question_is_made_once() -> None:
    text = "A watch is a small clock that is worn. A watch is a machine that tells the time."
    assert [q for q, _ in made(text)] == ["What is a watch?"]
