"""Hostile text: nothing fails, places hold, addresses and code stay, and time is linear in length."""

import random
import time

import pytest

from mainspring.products.spelling import Speller
from mainspring.products.spelling.tokens import LONGEST
from support import tiny_speller as tiny
from support.fuzzed_text import ADDRESSES, CODE, Fuzzed, fuzzed, rebuilt


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Speller:
    return tiny.speller(tmp_path_factory.mktemp("speller"))


def check(speller: Speller, case: Fuzzed, language: str) -> int:
    """What holds of any text; how many words were corrected."""
    found = speller.correct(case.text, language=language)
    assert rebuilt(case.text, [(w.start, w.stop, w.correction) for w in found.words]) == found.corrected
    corrected = [w for w in found.words if w.correction is not None]
    for word in found.words:
        assert case.text[word.start : word.stop] == word.text
        assert all(0 <= c.probability <= 1 for c in word.candidates)
    for start, stop in case.kept:
        assert not [w for w in corrected if w.start < stop and start < w.stop], case.text[start:stop]
    return len(corrected)


def test_hostile_texts(speller: Speller) -> None:
    rng = random.Random(9)
    corrected = sum(check(speller, fuzzed(rng), language) for _ in range(600) for language in ("en", "auto"))
    assert corrected > 100  # it is no speller that leaves everything alone


@pytest.mark.slow
def test_ten_thousand_hostile_texts(speller: Speller) -> None:
    rng = random.Random(8)
    assert sum(check(speller, fuzzed(rng), "en") for _ in range(10_000)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "auto", "ar", "hi", "ru", "fi", "zu"])
def test_hostile_texts_in_the_languages_that_ship(language: str) -> None:
    rng = random.Random(10)
    shipped = Speller.load()
    assert sum(check(shipped, fuzzed(rng), language) for _ in range(2_000)) > 100


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "recieve ",
            "recieve,",
            "a\u0301\u0323",
            "\u0301\u0323",
            "teh\n",
            "(",
            "😀",
            "\u202e",
            "\u200d",
            "the'",
        ),
        *(ADDRESSES[0] + " ", CODE[0], CODE[0] + "\n", "`", "```\n", "\ud800", "x=", "שלום "),
    ],
)
def test_time_is_linear_in_the_length_of_a_line(speller: Speller, piece: str) -> None:
    def seconds(characters: int) -> float:
        text = piece * (characters // len(piece))
        best = 60.0
        for _ in range(2):
            begun = time.perf_counter()
            speller.correct(text, language="en")
            best = min(best, time.perf_counter() - begun)
        return best

    seconds(2_000)
    assert seconds(40_000) < 12 * seconds(10_000) + 0.1  # quadratic would be 16


def test_a_line_of_a_megabyte(speller: Speller) -> None:
    rng = random.Random(11)
    pieces, length = (
        ["the recieve of the pakage " * 20],
        0,
    )  # what a line begins with tells whether it is code
    while length < 1_000_000:
        pieces.append(fuzzed(rng, 40).text.replace("\n", " ").replace("`", "'"))
        length += len(pieces[-1]) + 1
    assert check(speller, Fuzzed(" ".join(pieces), []), "en") > 1000


def test_words_of_any_content_have_candidates_or_none(speller: Speller) -> None:
    words = [
        "",
        "\0",
        "a\0b",
        "x" * 100_000,
        "\u0301" * 50_000,
        "\ud800",
        "😀",
        "recieve",
        "two words",
        "1",
        "x" * LONGEST,
    ]
    found = speller.suggest(words, language="en")
    assert [c.text for c in found[words.index("recieve")]][:1] == ["receive"]
    assert [found[i] for i in range(5)] == [[]] * 5
