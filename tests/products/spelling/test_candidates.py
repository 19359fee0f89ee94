"""Candidates beside a search through all words."""

import itertools

from mainspring.products.spelling.candidates import Candidates
from mainspring.products.spelling.letters import ClassTable
from mainspring.products.spelling.lexicon import Lexicon

LEXICON = Lexicon.of(
    {
        w: 100 + i
        for i, w in enumerate(
            [
                "the",
                "receive",
                "relieve",
                "package",
                "sister",
                "physical",
                "rhythm",
                "necessary",
                "accommodate",
                "straße",
                "жизнь",
            ]
        )
    }
)


def near(word: str, most: int = 48) -> set[str]:
    found = Candidates(LEXICON, ClassTable()).find([word], most)
    return {LEXICON.words[i] for i in found.place.tolist()}


def edits(word: str) -> set[str]:
    """All strings one edit away, with the letters of the word."""
    parts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    letters = "aexж"
    return {
        *(a + b[1:] for a, b in parts if b),
        *(a + b[1] + b[0] + b[2:] for a, b in parts if len(b) > 1),
        *(a + c + b[1:] for a, b in parts if b for c in letters),
        *(a + c + b for a, b in parts for c in letters),
    } - {""}


def test_every_word_is_found_from_all_that_is_one_edit_away() -> None:
    for word in LEXICON.words:
        wrongs = sorted(edits(word))
        found = Candidates(LEXICON, ClassTable()).find(wrongs)
        reached = set(found.row[found.place == LEXICON.words.index(word)].tolist())
        missed = [w for i, w in enumerate(wrongs) if i not in reached and len(w) > 1]
        assert not missed, (word, missed)


def test_two_edits_within_the_first_letters_are_found() -> None:
    for wrong in ("rceeive", "reicve", "pakge", "sitre"):
        target = {"r": "receive", "p": "package", "s": "sister"}[wrong[0]]
        assert target in near(wrong), wrong


def test_what_sounds_alike_is_found_however_many_vowels_differ() -> None:
    assert "physical" in near("fisicul")
    assert "necessary" in near("nessasery")


def test_several_at_once_are_those_of_each_alone() -> None:
    asked = ["recieve", "teh", "sistar", "zzzz"]
    index = Candidates(LEXICON, ClassTable())
    found = index.find(asked)
    for row, word in enumerate(asked):
        alone = index.find([word])
        assert sorted(found.place[found.row == row].tolist()) == sorted(alone.place.tolist())


def test_no_more_than_asked_for_and_in_order() -> None:
    found = Candidates(LEXICON, ClassTable()).find(["recieve", "relieve"], 1)
    assert found.row.tolist() == [0, 1]
    assert list(itertools.pairwise(found.row.tolist())) == [(0, 1)]
