"""The speller on a few words: what it corrects, leaves alone, and where."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.errors import DataError, UsageError
from mainspring.products.spelling import Speller
from support import tiny_speller as tiny

# What is in hostile input: emoji, right-to-left marks, zero width, half surrogates, odd blanks, controls.
ODD = [
    "😀",
    "👩‍👩‍👧",
    "\u202e",
    "\u200b",
    "\u200d",
    "\ud800",
    "\x00",
    "\ufeff",
    "שלום",
    "مرحبا",
    "日本",
    "ﬁ",
    "ﷺ",
    "İ",
    "\u0301",
    "\u2028",
]
ADDRESS = "https://recieve.example/teh?pakage=siter#wrods"
CODE = "for (int i = 0; i < lenght; i++) { recieve(pakage[i]); }"


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Speller:
    return tiny.speller(tmp_path_factory.mktemp("speller"))


@pytest.mark.parametrize(
    ("text", "corrected"),
    [
        ("recieve the pakage", "receive the package"),
        ("Recieve the pakage.", "Receive the package."),
        ("RECIEVE THE PAKAGE", "RECEIVE THE PACKAGE"),
        ("alot of time", "a lot of time"),
        ("we get to gether", "we get together"),
        ("the sister is here", "the sister is here"),
        ("", ""),
        (" \n\t", " \n\t"),
    ],
)
def test_corrections(speller: Speller, text: str, corrected: str) -> None:
    assert speller.correct(text, language="en").corrected == corrected


def test_each_word_has_its_place_candidates_and_kind(speller: Speller) -> None:
    text = "I recieve alot"
    found = speller.correct(text, language="en")
    assert [(w.text, w.kind, w.correction) for w in found.words] == [
        ("recieve", "nonword", "receive"),
        ("alot", "split", "a lot"),
    ]
    for word in found.words:
        assert text[word.start : word.stop] == word.text
        chances = [c.probability for c in word.candidates]
        assert chances == sorted(chances, reverse=True) and 0 <= sum(chances) <= 1 + 1e-9
    assert found.changed and found.language == "en" and found.confidence == 1


def test_a_higher_threshold_corrects_no_more(speller: Speller) -> None:
    text = "the sistar relive the pakage of wrods alot"
    counts = [
        sum(w.correction is not None for w in speller.correct(text, language="en", threshold=t).words)
        for t in (0.05, 0.3, 0.6, 0.9, 0.999)
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_languages_are_kept_apart(speller: Speller) -> None:
    assert speller.correct("strase", language="de").corrected == "straße"
    assert speller.correct("schon", language="de-AT").language == "de"
    with pytest.raises(UsageError, match="did you mean 'de'|is not one that is corrected"):
        speller.correct("x", language="dee")
    with pytest.raises(UsageError, match="threshold = 1"):
        speller.correct("x", language="en", threshold=1)


def test_a_language_without_lexicon_is_left_alone(speller: Speller) -> None:
    found = speller.correct("日本語のテキスト")
    assert (found.corrected, found.language, found.words) == (found.text, "und", ())


@pytest.mark.parametrize(
    "kept",
    [
        ADDRESS,
        CODE,
        "x = recieve",
        "C:\\recieve\\teh",
        "user@pakage.org",
        "teh_pakage",
        "siter2",
        "`recieve`",
    ],
)
def test_addresses_and_code_stay(speller: Speller, kept: str) -> None:
    assert (
        speller.correct(f"the cat\n{kept}\nthe mat", language="en").corrected == f"the cat\n{kept}\nthe mat"
    )


def test_fuzzed_input_never_fails_and_places_hold(speller: Speller) -> None:
    rng = random.Random(1)
    pieces = [*ODD, "recieve", "pakage", " ", "\n", "-", "'", "the", "Ünï", "a" * 50, "1", "`", ADDRESS]
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        found = speller.correct(text, language="en")
        at, rebuilt = 0, ""
        for word in found.words:
            assert at <= word.start < word.stop <= len(text) and text[word.start : word.stop] == word.text
            if word.correction is not None:
                rebuilt += text[at : word.start] + word.correction
                at = word.stop
        assert rebuilt + text[at:] == found.corrected
    bytes_ = rng.randbytes(5000)
    assert speller.correct(bytes_.decode("utf-8", "replace"), language="en").text


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_keeps_what_lies_between_its_words(speller: Speller, text: str) -> None:
    found = speller.correct(text, language="en")
    stays = [w for w in found.words if w.correction is None]
    assert all(w.text in found.corrected for w in stays)
    assert found.changed == any(w.correction is not None for w in found.words)


def test_a_line_of_a_megabyte_takes_time_in_proportion(speller: Speller) -> None:
    def seconds(count: int) -> float:
        text = "the recieve pakage " * count
        begun = time.perf_counter()
        speller.correct(text, language="en")
        return time.perf_counter() - begun

    seconds(100)
    small, large = seconds(1000), seconds(5000)
    assert large < 12 * small + 0.2  # quadratic would be 25


def test_a_folder_without_speller_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Speller.load(tmp_path)
