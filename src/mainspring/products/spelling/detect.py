"""Which language a text is in: a kept library among the languages that are corrected, led by the script.

py3langid (Lui and Baldwin 2012, retrained and maintained): no network, one model of 5 MB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from mainspring.errors import require
from mainspring.products.spelling.languages import LANGUAGES
from mainspring.products.spelling.tokens import script_of

LOOKED_AT = 2000
"""Characters of a text that are looked at."""
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
    sample = text[:LOOKED_AT]
    scripts = Counter(script_of(c) for c in sample)
    scripts.pop("", None)
    if not scripts:
        return Detected("und", 0.0)
    script, count = scripts.most_common(1)[0]
    if script not in _ONLY:
        return Detected("und", count / scripts.total())
    possible = [tag for tag, language in LANGUAGES.items() if language.script in _ONLY[script]]
    if len(possible) == 1:
        return Detected(possible[0], 1.0)
    best: dict[str, float] = {}
    for label, score in _identifier().rank(sample):
        tag = _THEIRS.get(label, label)
        if tag in LANGUAGES and tag in possible:
            best[tag] = max(best.get(tag, float("-inf")), float(score))
    if not best:
        return Detected(possible[0], 0.0)
    return _likeliest(best)


def _likeliest(scores: Mapping[str, float]) -> Detected:
    import math

    tag = max(scores, key=lambda t: scores[t])
    total = sum(math.exp(max(-700.0, score - scores[tag])) for score in scores.values())
    return Detected(tag, 1.0 / total)


@cache
def _identifier() -> Any:
    return require("py3langid", "spell")
