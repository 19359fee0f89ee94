"""From text to the terms that are matched: words in lower case, without stop words, stemmed by language.

Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) become overlapping pairs
of characters, which need no dictionary (Nie et al., "On the use of words and n-grams for Chinese information
retrieval", 2000). Stemmers are Snowball's, stop words those of the lexical engine.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from mainspring.errors import require

STEMMED: Mapping[str, str] = MappingProxyType(
    {
        "ar": "arabic",
        "da": "danish",
        "de": "german",
        "el": "greek",
        "en": "english",
        "es": "spanish",
        "fi": "finnish",
        "fr": "french",
        "hu": "hungarian",
        "it": "italian",
        "nl": "dutch",
        "no": "norwegian",
        "pt": "portuguese",
        "ro": "romanian",
        "ru": "russian",
        "sv": "swedish",
        "ta": "tamil",
        "tr": "turkish",
    }
)
"""Languages that have a stemmer, by ISO 639 code; words of others are matched as they stand."""
STOPPED = frozenset({"da", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "no", "pt", "ru", "sv"})
"""Languages whose stop words are known."""
SCRIPTS: Mapping[str, str] = MappingProxyType(
    {
        "ja": "\u3040-\u30ff",
        "ko": "\uac00-\ud7af\u1100-\u11ff",
        "zh": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
        "th": "\u0e00-\u0e7f",
        "lo": "\u0e80-\u0eff",
        "my": "\u1000-\u109f",
        "km": "\u1780-\u17ff",
        "el": "\u0370-\u03ff",
        "ru": "\u0400-\u04ff",
        "he": "\u0590-\u05ff",
        "ar": "\u0600-\u06ff",
        "hi": "\u0900-\u097f",
        "ta": "\u0b80-\u0bff",
    }
)
"""Letters of scripts, with the language that is most often written in each. Japanese comes before Chinese:
kana tell them apart."""

_SPACELESS = re.compile("[" + "".join(SCRIPTS[tag] for tag in ("ja", "zh", "th", "lo", "my", "km")) + "]+")
_LONGEST = 40
_LOOKED_AT = 600
_LEAST_STOP_WORDS = 0.08
"""Share of stop words below which a text's language is left open."""


@cache
def analyzer(language: str) -> Any:
    """The engine's analyzer of a language; of one without stemmer or stop words, words in lower case.

    Raises:
        MissingExtraError: the lexical engine is not installed.
    """
    tantivy = require("tantivy", "search")
    builder = _words(tantivy)
    if language in STOPPED:
        builder = builder.filter(tantivy.Filter.stopword(STEMMED[language]))
    if language in STEMMED:
        builder = builder.filter(tantivy.Filter.stemmer(STEMMED[language]))
    return builder.build()


def terms(text: str, languages: Iterable[str]) -> dict[str, int]:
    """Terms of a query with the number of times that it says each.

    A word that a query repeats weighs more: long questions gain much by it (docs/decisions, search).

    Args:
        text: what was asked.
        languages: each reads the text in its own way; of their counts the largest stands.
    """
    prepared = segmented(text)
    counts: dict[str, int] = {}
    for language in languages:
        own: dict[str, int] = {}
        for term in analyzer(language).analyze(prepared):
            own[term] = own.get(term, 0) + 1
        for term, count in own.items():
            counts[term] = max(counts.get(term, 0), count)
    return counts


def segmented(text: str) -> str:
    """A text whose spaces are where terms end: runs of a script without spaces become pairs of characters,
    and signs that only modify a letter (points, tones, viramas) are left out.

    >>> segmented("信息检索 search")
    '信息 息检 检索 search'
    """
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFKC", text)
    plain = "".join(c for c in composed if c < "\u0300" or not unicodedata.combining(c))
    return _SPACELESS.sub(_pairs, plain)


def base_language(tag: str | None) -> str:
    """The language of a BCP 47 tag, which is what analysis goes by; `und` where there is none.

    >>> base_language("pt-BR"), base_language(None), base_language("nb")
    ('pt', 'und', 'no')
    """
    language = (tag or "und").replace("_", "-").split("-")[0].lower()
    return "no" if language in ("nb", "nn") else language


def detect(text: str, among: Collection[str] | None = None) -> str | None:
    """The language of a text by its script and its stop words, None where they do not tell.

    Args:
        text: its beginning is looked at.
        among: choose among these only (None: all that are known).
    """
    sample = text[:_LOOKED_AT]
    letters = sum(c.isalpha() for c in sample)
    if not letters:
        return None
    if not sample.isascii():
        for language, ranges in SCRIPTS.items():
            share = len(re.findall(f"[{ranges}]", sample)) / letters
            if share > (0.1 if language == "ja" else 0.4):
                return language if among is None or language in among else None
    known = STOPPED if among is None else STOPPED & set(among)
    words = max(1, len(_plain().analyze(sample)))
    shares = {language: 1 - len(_without_stop_words(language).analyze(sample)) / words for language in known}
    best = max(shares, key=lambda language: (shares[language], language == "en"), default=None)
    return best if best is not None and shares[best] >= _LEAST_STOP_WORDS else None


def _words(tantivy: Any) -> Any:
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(_LONGEST))
        .filter(tantivy.Filter.lowercase())
    )


@cache
def _plain() -> Any:
    return _words(require("tantivy", "search")).build()


@cache
def _without_stop_words(language: str) -> Any:
    tantivy = require("tantivy", "search")
    return _words(tantivy).filter(tantivy.Filter.stopword(STEMMED[language])).build()


def _pairs(run: re.Match[str]) -> str:
    letters = run.group()
    pairs = [letters] if len(letters) == 1 else [letters[i : i + 2] for i in range(len(letters) - 1)]
    before = " " if run.start() and not run.string[run.start() - 1].isspace() else ""
    after = " " if run.end() < len(run.string) and not run.string[run.end()].isspace() else ""
    return f"{before}{' '.join(pairs)}{after}"
