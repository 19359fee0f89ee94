"""Language tags: examples of RFC 5646, aliases, and corpus file names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import DataError
from mainspring.text import language_tag
from mainspring.text.languages import LanguageTag, tag_of_name


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("en", "en"),
        ("EN-us", "en-US"),
        ("zh_hant_tw", "zh-Hant-TW"),
        ("sr-Latn-RS", "sr-Latn-RS"),
        ("de-CH-1901", "de-CH-1901"),
        ("sl-rozaj-biske", "sl-rozaj-biske"),
        ("es-419", "es-419"),
        ("eng", "en"),
        ("deu", "de"),
        ("ger", "de"),
        ("cmn-Hans", "zh-Hans"),
        ("zh-yue", "yue"),
        ("iw", "he"),
        ("yue", "yue"),
        ("x-klingon", "und-x-klingon"),
        ("en-x-me", "en-x-me"),
    ],
)
def test_canonical_form(tag: str, expected: str) -> None:
    assert str(language_tag(tag)) == expected
    assert str(language_tag(expected)) == expected


def test_parts() -> None:
    assert language_tag("de-Latn-CH-1901-x-home") == LanguageTag("de", "Latn", "CH", ("1901",), ("home",))


@pytest.mark.parametrize(
    "tag", ["", "e", "12", "english-language-x", "en-", "en-US-US", "en us", "en-é", "en-Latn-Latn"]
)
def test_malformed_tags_are_errors(tag: str) -> None:
    with pytest.raises(DataError, match="language tag"):
        language_tag(tag)


@given(st.text("abcdeXZ019-_", max_size=20))
def test_canonical_form_is_stable(text: str) -> None:
    try:
        tag = language_tag(text)
    except DataError:
        return
    assert language_tag(str(tag)) == tag


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("por_BR", "pt-BR"),
        ("azj_cyrl", "az-Cyrl"),
        ("ell_monotonic", "el-monoton"),
        ("deu_1901", "de-1901"),
        ("pes_1", "fa-x-1"),
        ("hat_kreyol", "ht-x-kreyol"),
        ("nya_chinyanja", "ny-x-nyanja"),
        ("007", "und-x-007"),
        ("aka_asante", "ak-asante"),
        ("cjk_AO", "cjk-AO"),
        ("cmn_hant", "zh-Hant"),
        ("tzm_tfng", "tzm-Tfng"),
    ],
)
def test_names_of_corpus_files(name: str, tag: str) -> None:
    assert str(tag_of_name(name)) == tag
