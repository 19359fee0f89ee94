"""Hostile text: pieces of many kinds put together at random, with the spans that have to stay as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

ODD = (
    "😀", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "🇩🇪", "1\ufe0f\u20e3", "\u202e", "\u2067", "\u2069",
    "\u200b", "\u200c", "\u200d", "\ufeff", "\xad", "\ud800", "\udcff", "\x00", "\x1b[31m", "\x7f",
    "\u0301", "\u0323\u0301" * 30, "\u2028", "\u2029", "\x85", "\r", "\t", "ﬁ", "ﷺ", "İ", "ǅ", "ß", "ſ",
    "K", "𝔘", "𐐀", "\U000e0041", "�", "\uffff", "٣", "Ⅷ", "½", "’", "ʼ", "`", "'", "\"", "-", "–", "…",
    "«", "(", ")", "[", "{", "<", ">", "&", "|", "~", "^", "%", "$", "#", "@", "*", "+", "=", "\\", "/",
    "_", ".", ",", ":", ";", "!", "?", "```", "~~~", "\n", "\n\n", " ", "  ", "\xa0", "\u3000",
)  # fmt: skip
SCRIPTS = (
    "שלום", "ש\u05b8\u05c1לו\u05b9ם", "مرحبا", "می\u200cخواهم", "日本語", "ภาษาไทย", "한국어", "हिन\u094dदी",
    "தமிழ\u0bcd", "አማርኛ", "ქართული", "հայերեն", "ελληνικά", "привет", "pаypal", "Ünïcödé", "cafe\u0301",
    "naïve", "l’homme", "O'Brien", "ZBIGNIEW", "iPhone",
)  # fmt: skip
WRONG = (
    "recieve", "pakage", "teh", "Wrods", "alot", "to gether", "SISTAR", "hause", "strase", "привит",
    "definately",
)  # fmt: skip
ADDRESSES = (
    "https://recieve.example/teh?pakage=siter#wrods", "http://user:pasword@hsot.example:8080/a/b;c=d",
    "www.recieve.example/teh", "ftp://ftp.exmaple.org/pub/redame.txt", "teh.pakage@recieve.example",
    "mailto:wrod@exmaple.org", "//cdn.exmaple.net/scirpt.js", "C:\\Usres\\teh\\pakage.txt",
    "~/recieve/teh.tar.gz", "10.0.0.1:recieve", "s3://bukcet/kye", "git@gihtub.com:teh/repo.git",
    "file:///ect/passwd",
)  # fmt: skip
CODE = (
    "for (int i = 0; i < lenght; i++) { recieve(pakage[i]); }", "x = recieve(teh, pakage)",
    "import sys, reciever", "def retrive(slef, kye): return slef.kyes[kye]", "#include <stido.h>",
    "SELECT naem FROM usres WHERE id = 3;", "if (!prt) { retrun NULL; }",
    "let wrods = teh.map(w => w.lenght);", "$ git chekcout -b feture",
    "const char *msg = recieve->mesage;", "<div class=\"contianer\">teh</div>", "// teh commnet",
    "@decroator", "recieve();", "a && b || teh", "return pakage;", "fn mian() -> Reuslt {",
    "public static void mian(Stirng[] args) {", "pritnf(\"%d\\n\", cuont);", "CFLAGS += -Wno-unsued",
    "export PTAH=$HOME/bni:$PTAH", "teh_pakage.wrod()",
)  # fmt: skip
"""Lines of code, whose names only their language's compiler could call wrong."""


class Fuzzed(NamedTuple):
    """A hostile text."""

    text: str
    kept: list[tuple[int, int]]
    """Spans of addresses and lines of code."""


def fuzzed(rng: random.Random, most: int = 12) -> Fuzzed:
    """Up to `most` pieces; addresses stand between blanks, code in lines of its own."""
    parts: list[str] = []
    kept: list[tuple[int, int]] = []
    at = 0
    for _ in range(rng.randint(0, most)):
        draw = rng.random()
        if draw < 0.12:
            piece, before, after = rng.choice(ADDRESSES), " ", " "
        elif draw < 0.22:
            piece, before, after = rng.choice(CODE), "\n", "\n"
        else:
            piece, before, after = _plain(rng, draw), "", rng.choice(("", " ", " ", "\n"))
        if draw < 0.22:
            kept.append((at + len(before), at + len(before) + len(piece)))
        parts.append(before + piece + after)
        at += len(parts[-1])
    return Fuzzed("".join(parts), kept)


def _plain(rng: random.Random, draw: float) -> str:
    if draw < 0.5:
        return rng.choice(ODD)
    if draw < 0.62:
        return rng.choice(SCRIPTS)
    if draw < 0.8:
        return rng.choice(WRONG)
    if draw < 0.86:  # something within a word
        word = rng.choice(WRONG)
        cut = rng.randrange(len(word))
        return word[:cut] + rng.choice(ODD) + word[cut:]
    if draw < 0.90:
        return "".join(chr(rng.randrange(1, 0x3000)) for _ in range(rng.randint(1, 20)))
    if draw < 0.93:
        return rng.choice(("a", "teh", "é", "\u200d", "\u0301", "'a", "я")) * rng.randint(1, 300)
    return rng.randbytes(rng.randint(1, 40)).decode("utf-8", rng.choice(("replace", "surrogateescape")))


def rebuilt(text: str, words: Sequence[tuple[int, int, str | None]]) -> str:
    """A text with corrections (start, stop, what to put) in their places, by slicing alone.

    Raises:
        AssertionError: places are not in order, or not within the text.
    """
    made, at = "", 0
    for start, stop, put in words:
        assert at <= start < stop <= len(text)
        made += text[at:start] + (text[start:stop] if put is None else put)
        at = stop
    return made + text[at:]
