"""Terms: by language, in any script, and as often as a query says them."""

import pytest

from mainspring.products.search.analysis import detect, segmented, terms


def test_stop_words_go_and_words_meet_in_their_stems() -> None:
    assert terms("the running of the dogs, running", ["en"]) == {"run": 2, "dog": 1}
    assert set(terms("die Läufer der Nacht", ["de"])) == {"lauf", "nacht"}
    assert set(terms("les chevaux", ["fr"])) == set(terms("le cheval", ["fr"]))
    assert terms("xyz", ["sw"]) == {"xyz": 1}


def test_scripts_without_spaces_become_pairs() -> None:
    assert segmented("plain ascii") == "plain ascii"
    assert segmented("东京") == "东京"
    assert segmented("用Python写") == "用 Python 写"
    assert segmented("ประเทศไทย").split() == segmented("ประเทศไทย").split()
    assert set(terms("東京都", ["en"])) == {"東京", "京都"}


def test_marks_that_modify_a_letter_do_not_tell_words_apart() -> None:
    assert segmented("e\u0301") == "é"
    assert segmented("بِسْمِ") == "بسم"
    assert segmented("ﬁne") == "fine"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The spring of the watch is what drives it.", "en"),
        ("Die Feder der Uhr ist das, was sie antreibt.", "de"),
        ("Le ressort de la montre est ce qui la fait marcher.", "fr"),
        ("La molla dell'orologio è ciò che lo muove.", "it"),
        ("El muelle del reloj es lo que lo mueve.", "es"),
        ("Пружина часов приводит их в движение.", "ru"),
        ("东京是日本的首都", "zh"),
        ("東京は日本の首都です", "ja"),
        ("서울은 한국의 수도이다", "ko"),
        ("กรุงเทพเป็นเมืองหลวง", "th"),
        ("عاصمة فرنسا هي باريس", "ar"),
        ("12345 !!", None),
        ("", None),
    ],
)
def test_languages_show_themselves(text: str, language: str | None) -> None:
    assert detect(text) == language


def test_a_choice_of_languages_is_kept_to() -> None:
    assert detect("Die Feder der Uhr ist das, was sie antreibt.", {"de", "en"}) == "de"
    assert detect("东京是日本的首都", {"en"}) is None
