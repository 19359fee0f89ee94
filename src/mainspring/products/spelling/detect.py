"""Which language a text is in: a kept library among the languages that are corrected, led by the script.

py3langid (Lui and Baldwin 2012, retrained and maintained): no network, one model of 5 MB. What it says of a
few words, some of them misspelt, is little: there the lexicons of the likeliest languages have their say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from mainspring.errors import require
from mainspring.products.spelling.languages import LANGUAGES
from mainspring.products.spelling.lexicon import Lexicon
from mainspring.products.spelling.tokens import script_of

LOOKED_AT = 2000
"""Characters of a text that are looked at."""
FEW = 8
"""Words up to which lexicons are asked."""
_ASKED = 4
"""Languages whose lexicons are asked, beside English."""
_UNKNOWN = -14.0
"""Log probability of a word that a lexicon lacks, where it is one that lexicons lack."""
_SLIPS = 0.1
"""Share of words of a query that are misspelt, so that no lexicon has them."""
_SHARE = 0.5
"""Weight of the library's log probabilities: its n-grams overlap, so that it is surer than it should be."""
_MUCH_WRITTEN = 2.0
"""Log odds of a language with large counts of words beside one without, and of English beside those."""
_ONLY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "LATIN": ("Latn",), "CYRILLIC": ("Cyrl",), "ARABIC": ("Arab",), "HEBREW": ("Hebr",), "GREEK":
        ("Grek",), "DEVANAGARI": ("Deva",), "BENGALI": ("Beng",), "GUJARATI": ("Gujr",), "GURMUKHI":
        ("Guru",), "KANNADA": ("Knda",), "MALAYALAM": ("Mlym",), "TAMIL": ("Taml",), "TELUGU": ("Telu",),
        "ETHIOPIC": ("Ethi",), "ARMENIAN": ("Armn",), "GEORGIAN": ("Geor",), "HANGUL": ("Hang",),
    }
)  # fmt: skip
_THEIRS: Mapping[str, str] = MappingProxyType({"no": "nb", "tl": "fil", "ary": "ar", "gug": "gn"})


class Detected(NamedTuple):
    """A language found in a text."""

    tag: str
    """`und` where the text has no letters of a script that is corrected."""
    confidence: float


def detect(text: str) -> Detected:
    """The likeliest language of a text.

    Raises:
        MissingExtraError: py3langid is not installed.
    """
    return _likeliest(ranked(text))


def detect_few(text: str, words: Sequence[str], lexicon: Callable[[str], Lexicon | None]) -> Detected:
    """The likeliest language of a few words: by the library, the lexicons, and how much is written in each.

    Args:
        text: what the words stand in.
        words: in the form of `letters.normal_word`.
        lexicon: of a language; None where it has none.

    Raises:
        MissingExtraError: py3langid is not installed.
    """
    scores = ranked(text)
    if len(scores) < 2 or not words:
        return _likeliest(scores)
    first = sorted(scores, key=lambda tag: -scores[tag])[:_ASKED]
    fits: dict[str, float] = {}
    for tag in {*first, *scores.keys() & {"en"}}:
        held = lexicon(tag)
        if held is not None:
            fits[tag] = _SHARE * scores[tag] + _fit(tag, words, held)
    return _likeliest(fits or scores)


def _fit(tag: str, words: Sequence[str], lexicon: Lexicon) -> float:
    """How well a language's lexicon takes some words: log probability, that of the language before it."""
    unknown = max(_SLIPS, float(lexicon.facts.get("unknown", _SLIPS)))
    prior = _MUCH_WRITTEN * (("wordfreq" in lexicon.facts.get("sources", ())) + (tag == "en"))
    found = [lexicon.log_probability(word) for word in words]
    return prior + sum(
        math.log(unknown) + _UNKNOWN if p is None else math.log(1 - unknown) + p for p in found
    )


def ranked(text: str) -> dict[str, float]:
    """Log probabilities of languages that a text may be in, up to a constant; none where it has no letters of
    a script that is corrected.

    Raises:
        MissingExtraError: py3langid is not installed.
    """
    sample = text[:LOOKED_AT]
    scripts = Counter(script_of(c) for c in sample)
    scripts.pop("", None)
    script = scripts.most_common(1)[0][0] if scripts else ""
    if script not in _ONLY:
        return {}
    possible = [tag for tag, language in LANGUAGES.items() if language.script in _ONLY[script]]
    if len(possible) == 1:
        return {possible[0]: 0.0}
    best: dict[str, float] = {}
    for label, score in _identifier().rank(sample):
        tag = _THEIRS.get(label, label)
        if tag in LANGUAGES and tag in possible:
            best[tag] = max(best.get(tag, float("-inf")), float(score))
    return best or dict.fromkeys(possible, 0.0)


def _likeliest(scores: Mapping[str, float]) -> Detected:
    if not scores:
        return Detected("und", 0.0)
    tag = max(scores, key=lambda t: scores[t])
    total = sum(math.exp(max(-700.0, score - scores[tag])) for score in scores.values())
    return Detected(tag, 1.0 / total)


@cache
def _identifier() -> Any:
    return require("py3langid", "spell")
