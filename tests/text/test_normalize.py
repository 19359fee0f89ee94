"""Normalisation: what each setting does, and that it is done once and for all."""

import unicodedata
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.text import NormalizeConfig, normalize
from mainspring.text.normalize import KEEP

ODD = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\r\n\t \x0b\x0c\x85\u2028\u2029\ufeff\ud800\x00e\u0301ﬁ\u00a0\u3000"),
    ),
    max_size=60,
)
CONFIGS = [
    NormalizeConfig(form=form, newlines=newlines, control=control, whitespace=whitespace)
    for form, newlines, control, whitespace in product(
        ("none", "nfc", "nfkc", "nfd", "nfkd"),
        ("keep", "unify"),
        ("keep", "remove"),
        ("keep", "trim", "collapse"),
    )
]


@given(ODD, st.sampled_from(CONFIGS))
def test_twice_is_once(text: str, config: NormalizeConfig) -> None:
    once = normalize(text, config)
    assert normalize(once, config) == once


@given(ODD)
def test_default_gives_encodable_canonical_text(text: str) -> None:
    done = normalize(text, NormalizeConfig())
    done.encode("utf-8")
    assert unicodedata.is_normalized("NFC", done)
    assert "\r" not in done
    assert done == done.strip()
    assert all(unicodedata.category(c) != "Cc" or c in "\n\t" for c in done)


@given(ODD)
def test_keep_changes_nothing(text: str) -> None:
    assert normalize(text, KEEP) == text


@pytest.mark.parametrize(
    ("config", "text", "expected"),
    [
        ({}, "cafe\u0301", "café"),
        ({"form": "none"}, "cafe\u0301", "cafe\u0301"),
        ({}, "ﬁne \uff21", "ﬁne \uff21"),
        ({"form": "nfkc"}, "ﬁne \uff21", "fine A"),
        ({}, "a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ({"newlines": "keep", "whitespace": "keep"}, "a\r\nb", "a\r\nb"),
        ({}, "\ufeffa\x00b\x7f", "ab"),
        ({"control": "keep"}, "a\x00b", "a\x00b"),
        ({}, "  a  b \n\n\n\n c\t\n", "a  b\n\n c"),
        ({"whitespace": "collapse"}, " a \t b\n\n\n\nc", "a b\n\nc"),
        ({"whitespace": "keep"}, " a \n", " a \n"),
    ],
)
def test_settings(config: dict[str, str], text: str, expected: str) -> None:
    assert normalize(text, NormalizeConfig(**config)) == expected


def test_long_runs_of_blanks_take_linear_time() -> None:
    text = (" " * 200_000 + "x") * 3
    assert normalize(text, NormalizeConfig()).startswith("x")
    assert normalize(text, NormalizeConfig(whitespace="collapse")) == "x x x"
