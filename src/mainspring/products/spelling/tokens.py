"""Words of a text with their places, and which of them are left alone: names, code, numbers, addresses,
mixed scripts.

One pass with patterns that never look back, so that the time is linear in the length whatever the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["word", "name", "acronym", "code", "mixed", "long"]

LONGEST = 40
"""Letters beyond which a word is left alone."""
# Letters, combining marks (which \w lacks), the joiners of Persian and Indic words; apostrophes within.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07a6-\u07b0\u0900-\u0903\u093a-\u093c"
    "\u093e-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c-\u0a4d"
    "\u0a70\u0a71\u0a81-\u0a83\u0abc\u0abe-\u0acd\u0ae2\u0ae3\u0b01-\u0b03\u0b3c\u0b3e-\u0b57\u0b82\u0bbe-\u0bcd\u0bd7"
    "\u0c00-\u0c04\u0c3e-\u0c56\u0c81-\u0c83\u0cbc\u0cbe-\u0cd6\u0d00-\u0d03\u0d3b\u0d3c\u0d3e-\u0d4d\u0d57\u0d82\u0d83"
    "\u0dca-\u0ddf\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u135d-\u135f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f"
)
_LETTER = rf"(?:[^\W\d_]|[{_MARKS}\u200c\u200d])"
_WORD = re.compile(rf"[^\W\d_]{_LETTER}*(?:['’ʼ]{_LETTER}+)*")
_JOINERS = "\u200c\u200d"
_BROKEN = re.compile(r"[\ud800-\udfff\ufffd]")
"""What is left of bytes that are no UTF-8: the letters around it are not what was written."""
_UNSEEN = "\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"
_SEAM = re.compile(rf"{_LETTER}[{_UNSEEN}]+{_LETTER}")
"""A break, a mark of direction or a blank without width within a word."""
_UNSEEN_ONE = re.compile(f"[{_UNSEEN}]")
_CHUNK = re.compile(r"\S+")
_LINE = re.compile(r"[^\n]*\n?")
_CODE_SIGN = re.compile(r"[/\\@<>{}\[\]=_$#%^~|`]|[+*&](?!\w)|\w[+*&]|::|\w\(|\(\)|\w\.\w|^--?\w")
_DIGIT = re.compile(r"\d")
_CODE_LINE = re.compile(
    r"^\s*(?:import \w|from \S+ import |def \w+\s*\(|class \w+[(:]|#include\b|#define\b|using \w+|package \w|"
    r"(?:if|elif|for|while|with|try|except|else|switch|case|do|match|finally)\b.*[:{]\s*(?:#.*|//.*)?$|(?:return|let|const|var|"
    r"int|void|char|public|private|static|func|fn|async|await|select|SELECT|insert|INSERT|update|UPDATE)\b.*[;({=]|"
    r"[$>] \w|//|/\*|\*/|<\w|[}\])];?\s*$)|[;{]\s*}*;?\s*$|[\w\])]\s*[-+*/|&]?=\s*\S|=>|&&|\|\||"
    r"^\s+(?:return|yield(?: from)?|raise|assert(?: not)?) \w+(?:, ?\w+)*\s*$|^\s*del \w+(?:, ?\w+)*\s*$|"
    r"^\s*(?:if|elif|while|return|assert|with|switch|for) ?\([^)]*$|^\s*(?:'[^']*'|\"[^\"]*\"): ?\S"
)
_CALL = re.compile(r"\w\(.*\)|->")
_OPENED = re.compile(r"\w[(\[][^)\]]*$")
_GOES_ON = re.compile(r"(?:[,(\[{+*/%&|=\\-]|\b(?:and|or|not|if|else|in|is))$")
"""With a bracket that is open: a call that goes on in the next line."""
_PLAIN = re.compile(rf"[(\"'“«]*{_LETTER}+(?:['’-]{_LETTER}+)*[.,;:!?)\"'”»]*")
_PROSE = 6
"""Plain words from which a line is prose that names a function, where most of it are such."""
_OPEN = 20
"""Lines for which a bracket that code opens, and does not close, makes what follows code as well."""
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_UNJOINED = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "HEBREW", "ETHIOPIC", "HANGUL"})
"""Scripts that have no use for joiners."""
_ENDS = '.!?…:;\n"“”«»([{—–•·'


class Token(NamedTuple):
    """A word at its place."""

    start: int
    stop: int
    text: str
    kind: Kind
    """`word`, or why it is left alone."""
    begins: bool
    """Whether a sentence begins with it."""


def tokenize(text: str, *, nouns_capitalised: bool = False) -> Iterator[Token]:
    """Words in order; what lies between them is no word.

    Args:
        text: of any length and content.
        nouns_capitalised: a capital within a sentence does not tell a name (German).
    """
    fenced = False
    depth = left = 0  # brackets that are open, lines for which that counts
    shouted = _is_shouted(text)
    begins = True
    for line in _LINE.finditer(text):
        row = line.group()
        if not row:
            continue
        if _FENCE.match(row):
            fenced = not fenced
            continue
        if not row.strip() or (left and _is_prose(row[:400])):
            depth = left = 0
        code = fenced or left > 0 or _is_code(row)
        if code:
            depth += sum(map(row.count, "([{")) - sum(map(row.count, ")]}"))
            left = 0 if depth <= 0 else left - 1 if left else _OPEN
            depth = max(0, depth) if left else 0
        ticked = False
        for chunk in _CHUNK.finditer(row):
            part, at = chunk.group(), line.start() + chunk.start()
            if part[0] in _ENDS:
                begins = True
            marked = code or ticked or _CODE_SIGN.search(part) is not None
            if part.count("`") % 2:
                ticked = not ticked
                marked = True
            digits = _DIGIT.search(part) is not None
            broken = _BROKEN.search(part) is not None
            seams = _SEAM.search(part) is not None
            for found in _WORD.finditer(part):
                word = found.group().rstrip(_JOINERS)
                start = at + found.start()
                if start and part[found.start() - 1 : found.start()] and part[found.start() - 1] in _ENDS:
                    begins = True
                if marked or (digits and _beside_digit(part, found)):
                    kind: Kind = "code"
                elif broken or (seams and _beside_unseen(part, found)):
                    kind = "mixed"
                else:
                    kind = _kind(word, begins, nouns_capitalised, shouted)
                yield Token(start, start + len(word), word, kind, begins)
                begins = False
            if part[-1] in _ENDS or part.rstrip("\"'”’»)]}")[-1:] in (".", "!", "?", "…"):
                begins = True
        if row.endswith("\n"):
            begins = True


def _is_code(row: str) -> bool:
    head = row[:400].rstrip()
    if _CODE_LINE.search(head) is not None:
        return True
    call = _CALL.search(head) is not None or (
        _GOES_ON.search(head[-8:]) is not None and _OPENED.search(head) is not None
    )
    return call and not _is_prose(head)


def _is_prose(row: str) -> bool:
    chunks = row.split()
    plain = sum(_PLAIN.fullmatch(chunk) is not None for chunk in chunks)
    return plain >= _PROSE and 4 * plain >= 3 * len(chunks)


def _beside_digit(part: str, found: re.Match[str]) -> bool:
    before, after = part[max(0, found.start() - 2) : found.start()], part[found.end() : found.end() + 2]
    return any(c.isdigit() for c in before + after)


def _beside_unseen(part: str, found: re.Match[str]) -> bool:
    beside = part[max(0, found.start() - 1) : found.start()] + part[found.end() : found.end() + 1]
    return _UNSEEN_ONE.search(beside) is not None


def _is_shouted(text: str) -> bool:
    """Whether a text is all in capitals, so that they tell nothing."""
    sample = text[:1000]
    return sample.upper() == sample and sample.lower() != sample


def _kind(word: str, begins: bool, nouns_capitalised: bool, shouted: bool) -> Kind:
    if len(word) > LONGEST:
        return "long"
    if not word.isascii() and _is_mixed(word):
        return "mixed"
    if shouted or word.islower():
        return "word"
    if len(word) > 1 and word.isupper():
        return "acronym"
    rest = word[1:]
    if not (rest.islower() or rest == "" or rest.upper() == rest.lower()):
        # An apostrophe may stand before a capital (O'Brien, d'Artagnan, l'Europe): a name as well.
        return "name" if "'" in word or "’" in word else "code"
    if not begins and word[0].isupper() and len(word) > 1 and not nouns_capitalised:
        return "name"
    return "word"


def _is_mixed(word: str) -> bool:
    scripts = {script_of(c) for c in word}
    scripts.discard("")
    return len(scripts) > 1 or (bool(scripts & _UNJOINED) and any(joiner in word for joiner in _JOINERS))


@lru_cache(maxsize=32768)
def script_of(letter: str) -> str:
    """The script of a letter as the first word of its Unicode name; empty of marks, joiners and signs.

    >>> script_of("a"), script_of("ж"), script_of("'")
    ('LATIN', 'CYRILLIC', '')
    """
    if not letter.isalpha():
        return ""
    name = unicodedata.name(letter, "")
    return "" if name.startswith("MODIFIER") else name.split(" ")[0]


def like(word: str, pattern: str) -> str:
    """A word with the capitals of another.

    >>> like("receive", "Recieve"), like("receive", "RECIEVE"), like("a lot", "Alot")
    ('Receive', 'RECEIVE', 'A lot')
    """
    if len(pattern) > 1 and pattern.isupper():
        return word.upper()
    if pattern[:1].isupper():
        return word[:1].upper() + word[1:]
    return word
