"""What letters have in common: case, marks, and the sound that a letter's Unicode name tells.

Every letter of every alphabet has a class: a-z for the sound that its name begins with (CYRILLIC SMALL LETTER
PE, GREEK SMALL LETTER PI and ARABIC LETTER PEH are all p). So what is learnt of slips between classes
in one script carries over to another.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]

CLASSES = 32
"""Number of classes: 0 nothing, 1 to 26 the sounds a to z, 27 digits, 28 apostrophe, 29 hyphen, 30 marks,
31 anything else."""
VOWELS = frozenset(ord(c) - 96 for c in "aeiouy")
"""Classes of vowels."""
APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'", "‘": "'", "`": "'", "´": "'"})
_NAME = re.compile(
    r"(?:LETTER|SIGN|VOWEL|LIGATURE|SYLLABLE)(?: (?:SMALL|FINAL|MEDIAL|INITIAL|VOCALIC|SIGN|VOWEL))* (.+)"
)
_SOUNDS = {
    "HARD SIGN": "", "SOFT SIGN": "", "VIRAMA": "", "ALEF": "a", "ALEPH": "a", "AIN": "a", "AYIN": "a",
    "SHA": "s", "SHCHA": "s", "CHE": "c", "TSE": "c", "ZHE": "z", "XI": "x", "PSI": "p", "THETA": "t",
    "CHI": "h", "ETA": "e", "IOTA": "i", "EPSILON": "e", "OMEGA": "o", "OMICRON": "o", "UPSILON": "u",
    "YERU": "y", "YA": "a", "IO": "e", "YU": "u", "IE": "e", "SHORT I": "i", "EF": "f", "EL": "l", "EM":
    "m", "EN": "n", "ER": "r", "ES": "s", "HA": "h", "HEH": "h", "YEH": "i", "FARSI YEH": "i", "WAW": "u",
    "VAV": "v", "YOD": "i",
}  # fmt: skip


@lru_cache(maxsize=65536)
def letter_class(letter: str) -> int:
    """The class of a letter.

    >>> [letter_class(c) for c in "aéжπ"], letter_class("7")
    ([1, 5, 26, 16], 27)
    """
    base = unicodedata.normalize("NFD", letter)[:1]
    if "a" <= base <= "z":
        return ord(base) - 96
    if base.isdigit():
        return 27
    if base == "'":
        return 28
    if base == "-":
        return 29
    name = unicodedata.name(base, "")
    match = _NAME.search(name)
    if match is not None:
        words = match[1].split(" WITH ")[0]
        sound = _SOUNDS.get(words, words[:1].lower())
        if "a" <= sound <= "z":
            return ord(sound) - 96
    if "HANGUL" in name or unicodedata.category(base)[0] == "L":
        return 31
    return 30 if unicodedata.category(base)[0] == "M" else 31


def normal_word(word: str) -> str:
    """The form in which words are compared: NFC, lower case, straight apostrophes.

    >>> normal_word("Cafe\\u0301’s")
    "café's"
    """
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFC", word).lower().translate(APOSTROPHES)


def without_marks(word: str) -> str:
    """A word without its diacritics; letters that are not a base with marks stay.

    >>> without_marks("ščžłø")
    'sczlo'
    """
    plain = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
    return plain.translate(_STROKES)


_STROKES = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ı": "i", "ħ": "h", "ŧ": "t", "ß": "s", "æ": "a", "œ": "o"}
)


def encode(words: list[str]) -> tuple[Codes, Codes]:
    """Code points of words, zero beyond each word's end, and the words' lengths: [N, L], [N]."""
    lengths = np.fromiter((len(w) for w in words), np.int32, len(words))
    width = int(lengths.max(initial=1))
    joined = "".join(w.ljust(width, "\0") for w in words)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.int32)
    return codes.reshape(len(words), width), lengths


_TABLE_SIZE = 0x20000


class ClassTable:
    """Classes of code points, filled as they are met."""

    def __init__(self) -> None:
        self._classes = np.full(_TABLE_SIZE, -1, np.int8)
        self._classes[0] = 0

    def of(self, codes: Codes) -> NDArray[np.int8]:
        """The class of each code point; 0 of zeros."""
        inside = np.minimum(codes, _TABLE_SIZE - 1)
        found: NDArray[np.int8] = self._classes[inside]
        if (found < 0).any():
            for code in np.unique(inside[found < 0]).tolist():
                self._classes[code] = 31 if code >= 0xD800 and code < 0xE000 else letter_class(chr(code))
            found = self._classes[inside]
        return found
