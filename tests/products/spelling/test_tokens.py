"""Words, their places, and what is left alone."""

import io
import re
import sysconfig
import time
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from token import NAME
from tokenize import generate_tokens as python_tokens

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.products.spelling.lexicon import Lexicons
from mainspring.products.spelling.speller import LEXICONS
from mainspring.products.spelling.technical import TECHNICAL
from mainspring.products.spelling.tokens import like, tokenize


def kinds(text: str) -> dict[str, str]:
    return {t.text: t.kind for t in tokenize(text)}


@pytest.mark.parametrize(
    ("text", "word", "kind"),
    [
        ("see http://foo.bar/baz now", "baz", "code"),
        ("write to me@foo.org please", "foo", "code"),
        ("the fooBar method", "fooBar", "code"),
        ("a snake_case name", "snake", "code"),
        ("a file /usr/lib/thng here", "thng", "code"),
        ("h264 video", "h", "code"),
        ("run `teh thing` now", "thing", "code"),
        ("I met Zbigniew there", "Zbigniew", "name"),
        ("the NASA mission", "NASA", "acronym"),
        ("a pаypal link", "pаypal", "mixed"),
        ("Recieve it", "Recieve", "word"),
        ("It ends. Teh next", "Teh", "word"),
        ("a" * 41, "a" * 41, "long"),
        ("def foo(bar): retrun bar", "retrun", "code"),
        ("you can call foo_bar(baz) wehn it is late", "wehn", "word"),
        ("you can call foo_bar(baz) wehn it is late", "baz", "code"),
        ("print(x) for thng in range(10) if x", "thng", "code"),
        ("for (int i = 0; i < n; i++) {", "int", "code"),
        ("x = call(first,\n    secnd, thrd)\nteh", "thrd", "code"),
        ("x = call(first,\n    secnd, thrd)\nteh", "teh", "word"),
        ("if (secnd is not None and\n", "secnd", "code"),
        ("    return retrn\n", "retrn", "code"),
        ("names[key] = vlaue", "vlaue", "code"),
        ("    'name': nmae,", "nmae", "code"),
        ("I return teh book", "teh", "word"),
        ("teh joke ;)", "teh", "word"),
        ("if (!ok) { retrun NULL; }", "retrun", "code"),
        ("y" * 300 + "(https://recieve.example", "recieve", "code"),
        ("pass\u200bwrod", "wrod", "mixed"),
        ("pack\u00adgae", "gae", "mixed"),
        ("\u202bwrod\u202c", "wrod", "word"),
        ("caf\udce9 wrod", "caf", "mixed"),
        ("caf\udce9 wrod", "wrod", "word"),
        ("wr\u200dod", "wr\u200dod", "mixed"),
        ("می\u200cخواهم", "می\u200cخواهم", "word"),
        ("teh\u200d", "teh", "word"),
    ],
)
def test_kind(text: str, word: str, kind: str) -> None:
    assert kinds(text)[word] == kind


def test_names_in_the_standard_library_stay() -> None:
    """Python's own tokenizer tells what is a name; few of those that no lexicon has are taken for words."""
    folder = Path(sysconfig.get_path("stdlib"))
    lexicon = Lexicons(Path(str(files("mainspring.products.spelling").joinpath("data", LEXICONS)))).load("en")
    names = taken = 0
    for module in ("configparser", "shlex", "textwrap", "zipimport", "tempfile"):
        text = (folder / f"{module}.py").read_text(encoding="utf-8")
        begin = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
        inside: set[int] = set()
        for token in python_tokens(io.StringIO(text).readline):
            if token.type == NAME:
                start = begin[token.start[0] - 1] + token.start[1]
                inside.update(range(start, start + len(token.string)))
                names += 1
        taken += sum(
            t.kind == "word" and t.start in inside and t.text.lower() not in TECHNICAL
            for t in tokenize(text)
            if t.text.lower() not in lexicon
        )
    assert names > 5000 and taken < 0.002 * names


def test_prose_is_no_code() -> None:
    text = "He said (as he often does, and\nwill again) that it is late: if (as I think) it rains.\nTeh end"
    assert {t.kind for t in tokenize(text)} == {"word"}


def test_fenced_code_is_left_alone_until_its_end() -> None:
    found = kinds("teh\n```\nwrod\n```\nthigns\n")
    assert found == {"teh": "word", "wrod": "code", "thigns": "word"}


def test_capitals_tell_nothing_where_all_is_shouted_or_nouns_have_them() -> None:
    assert kinds("PLEASE RECIEVE IT") == {"PLEASE": "word", "RECIEVE": "word", "IT": "word"}
    assert {t.text: t.kind for t in tokenize("Das Huas ist", nouns_capitalised=True)}["Huas"] == "word"


def test_marks_belong_to_their_letters() -> None:
    assert [t.text for t in tokenize("हिन्दी भाषा, cafe\u0301 שָׁלוֹם")] == [
        "हिन्दी",
        "भाषा",
        "cafe\u0301",
        "שָׁלוֹם",
    ]


@given(st.text(max_size=300))
def test_places_are_those_of_the_words(text: str) -> None:
    at = 0
    for token in tokenize(text):
        assert at <= token.start < token.stop <= len(text)
        assert text[token.start : token.stop] == token.text
        at = token.stop


@pytest.mark.parametrize("piece", ["a", "a ", "a'", "`", "/", "\n", "é", "1a", "```\n", "= ", "()", "\u200d"])
def test_time_is_linear(piece: str) -> None:
    def seconds(count: int) -> float:
        text = piece * count
        best = 9.0
        for _ in range(3):
            begun = time.perf_counter()
            for _ in tokenize(text):
                pass
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(16_000) < 12 * seconds(4_000) + 0.05  # quadratic would be 16


@pytest.mark.parametrize(
    ("word", "pattern", "made"),
    [("receive", "recieve", "receive"), ("to", "Ot", "To"), ("to", "OT", "TO"), ("to", "", "to")],
)
def test_capitals_are_copied(word: str, pattern: str, made: str) -> None:
    assert like(word, pattern) == made


def test_words_agree_with_a_plain_pattern_on_plain_text() -> None:
    text = "It is a truth, universally acknowledged: all's well that ends well."
    assert [t.text for t in tokenize(text)] == re.findall(r"[A-Za-z]+(?:'[A-Za-z]+)*", text)
