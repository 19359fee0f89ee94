"""Which language a text is in."""

import pytest

from mainspring.products.spelling import Speller
from mainspring.products.spelling.detect import detect, detect_few
from mainspring.products.spelling.languages import LANGUAGES, families, known_language


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("the quick brown fox jumps over the lazy dog", "en"),
        ("wo ist der nächste bahnhof bitte", "de"),
        ("где находится ближайший вокзал", "ru"),
        ("πού είναι ο σταθμός", "el"),
        ("안녕하세요 반갑습니다", "ko"),
        ("მე მიყვარს საქართველო", "ka"),
        ("日本語のテキスト", "und"),
        ("12345 !?", "und"),
        ("", "und"),
    ],
)
def test_language_of_a_text(text: str, tag: str) -> None:
    found = detect(text)
    assert found.tag == tag and 0 <= found.confidence <= 1


@pytest.mark.parametrize(
    ("query", "tag"),
    [
        ("resturant near me", "en"),
        ("pubic transport tikcet", "en"),
        ("gril frend", "en"),
        ("wat is de tijdd", "nl"),
        ("bonjur le mond", "fr"),
    ],
)
def test_lexicons_tell_the_language_of_a_misspelt_query(query: str, tag: str) -> None:
    assert Speller.load().correct(query).language == tag


def test_few_words_without_a_lexicon_are_the_librarys() -> None:
    assert detect_few("wo ist der bahnhof", ["wo"], lambda tag: None) == detect("wo ist der bahnhof")
    assert detect_few("12345", [], lambda tag: None).tag == "und"


def test_the_table_has_more_than_a_hundred_languages_in_families() -> None:
    assert len(LANGUAGES) >= 100
    assert all(known_language(tag).tag == tag for tag in LANGUAGES)
    assert sum(len(tags) for tags in families().values()) == len(LANGUAGES)
    assert {"cs", "pl", "sk"} <= set(families()["Latn-slavic"])
