"""Keys beside one another on the keyboards that languages are typed on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

_ROWS: Mapping[str, str] = MappingProxyType(
    {
        "qwerty": "qwertyuiop asdfghjkl' zxcvbnm",
        "azerty": "azertyuiop qsdfghjklm wxcvbn'",
        "qwertz": "qwertzuiopü asdfghjklöä yxcvbnm",
        "nordic": "qwertyuiopå asdfghjklöä zxcvbnm",
        "turkish": "qwertyuıopğü asdfghjklşi zxcvbnmöç",
        "russian": "йцукенгшщзхъ фывапролджэ ячсмитьбю",
        "ukrainian": "йцукенгшщзхї фівапролджє ячсмитьбю",
        "serbian": "љњертзуиопшђ асдфгхјклчћж ѕџцвбнм",
        "bulgarian": "явертъуиопшщю асдфгхйклчь зжцвбнм",
        "greek": "ςερτυθιοπ ασδφγηξκλ ζχψωβνμ",
        "hebrew": "קראטוןםפ שדגכעיחלךף זסבהנמצתץ",
        "arabic": "ضصثقفغعهخحجد شسيبلاتنمكط ئءؤرلاىةوزظ",
        "persian": "ضصثقفغعهخحجچ شسیبلاتنمکگ ظطزرذدپو",
        "armenian": "քոեռտըւիօպխծ ասդֆգհյկլ զղցվբնմ",
        "georgian": "ქწერტყუიოპ ასდფგჰჯკლ ზხცვბნმ",
        "inscript": "ौैाीूबहगदजड ोे्िुपरकतचट ंमनवलसय",
        "hangul": "ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔ ㅁㄴㅇㄹㅎㅗㅓㅏㅣ ㅋㅌㅊㅍㅠㅜㅡ",
    }
)
"""Rows of letters from top to bottom; each row stands a little to the right of the one above."""
_OF_LANGUAGE = {
    "fr": "azerty", "de": "qwertz", "cs": "qwertz", "sk": "qwertz", "hu": "qwertz", "sl": "qwertz", "hr":
    "qwertz", "bs": "qwertz", "lb": "qwertz", "gsw": "qwertz", "sv": "nordic", "fi": "nordic", "da":
    "nordic", "nb": "nordic", "nn": "nordic", "et": "nordic", "tr": "turkish", "ru": "russian", "uk":
    "ukrainian", "be": "russian", "sr": "serbian", "mk": "serbian", "bg": "bulgarian", "el": "greek", "he":
    "hebrew", "yi": "hebrew", "fa": "persian", "hy": "armenian", "ka": "georgian", "ko": "hangul",
}  # fmt: skip
_OF_SCRIPT = {
    "Latn": "qwerty", "Cyrl": "russian", "Grek": "greek", "Hebr": "hebrew", "Arab": "arabic", "Armn":
    "armenian", "Geor": "georgian", "Deva": "inscript", "Hang": "hangul",
}  # fmt: skip


@cache
def neighbours(tag: str, script: str) -> Mapping[str, str]:
    """By letter, those on the keys around it, on the keyboard that a language is most often typed on.

    >>> sorted(neighbours("en", "Latn")["s"])
    ['a', 'd', 'e', 'w', 'x', 'z']
    """
    layout = _OF_LANGUAGE.get(tag) or _OF_SCRIPT.get(script)
    if layout is None:
        return {}
    rows = _ROWS[layout].split(" ")
    places = {
        letter: (r, c + 0.25 * r + (0.25 if r == 2 else 0))
        for r, row in enumerate(rows)
        for c, letter in enumerate(row)
    }
    return {
        a: "".join(
            b
            for b, (y, x) in places.items()
            if b != a and abs(y - r) <= 1 and abs(x - c) < (1.1 if y == r else 0.8)
        )
        for a, (r, c) in places.items()
    }
