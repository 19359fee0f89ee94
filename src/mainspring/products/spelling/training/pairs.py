"""Real misspellings with what was meant, in halves: one to learn and tune on, one to report on.

A pair's half is a hash of the word that was meant, so that no word is in both, whatever the set.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mainspring.errors import DataError
from mainspring.products.spelling.letters import normal_word


class Pair(NamedTuple):
    """A misspelling."""

    wrong: str
    right: str
    times: int = 1
    """How often it was met."""


def half(word: str) -> int:
    """0: to learn and tune on; 1: to report on.

    >>> half("receive") == half("Receive")
    True
    """
    return hashlib.blake2b(normal_word(word).encode(), digest_size=1).digest()[0] & 1


def mitton(path: Path) -> Iterator[Pair]:
    """Roger Mitton's format: `$word`, then its misspellings, each perhaps with a count."""
    right = ""
    for line in _lines(path):
        if line.startswith("$"):
            right = line[1:].replace("_", " ")
        elif line and right and right != "?":
            wrong, _, count = line.partition(" ")
            yield Pair(wrong.replace("_", " "), right, int(count) if count.isdigit() else 1)


def codespell(path: Path) -> Iterator[Pair]:
    """codespell's dictionary: `wrong->right` or `wrong->right, right, ...`, of which the first is taken."""
    for line in _lines(path):
        wrong, arrow, rights = line.partition("->")
        if arrow:
            yield Pair(wrong, rights.split(",")[0].strip())


def symspell_queries(path: Path) -> Iterator[Pair]:
    """SymSpell's noisy queries: `wrong right distance`."""
    for line in _lines(path):
        parts = line.split()
        if len(parts) == 3 and parts[0] != parts[1]:
            yield Pair(parts[0], parts[1])


def autocorrect(path: Path) -> Iterator[Pair]:
    """LibreOffice's lists as tab-separated rows."""
    for row in csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE):
        if len(row) == 2:
            yield Pair(row[0], row[1])


def parallel(wrong: Path, right: Path) -> Iterator[Pair]:
    """Words that differ between sentences of as many words, line by line."""
    for a, b in zip(_lines(wrong), _lines(right), strict=True):
        left, correct = (re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", line) for line in (a, b))
        if len(left) == len(correct):
            for x, y in zip(left, correct, strict=True):
                if normal_word(x) != normal_word(y):
                    yield Pair(x, y)


_ENGLISH: Mapping[str, tuple[str, Callable[[Path], Iterator[Pair]]]] = MappingProxyType(
    {
        "birkbeck": ("en/mitton/missp.dat.gz", mitton),
        "wikipedia": ("en/mitton/wikipedia.dat.gz", mitton),
        "aspell": ("en/mitton/aspell.dat.gz", mitton),
        "holbrook": ("en/mitton/holbrook-missp.dat.gz", mitton),
        "symspell": ("en/symspell/noisy_query_en_1000.txt", symspell_queries),
        "codespell": ("en/codespell/dictionary.txt.gz", codespell),
    }
)
FREE = frozenset({"codespell", "symspell", "ruspellru", "autocorrect"})
"""Sets whose licence lets what was learnt from them be passed on; only these teach what is shipped."""


def read_pairs(root: Path) -> dict[tuple[str, str], list[Pair]]:
    """All sets under the folder of spelling data: by language and name, in lower case, single words or two.

    Raises:
        DataError: the folder is not there.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no folder of spelling data; name it with --data")
    found: dict[tuple[str, str], Iterable[Pair]] = {}
    for name, (place, reader) in _ENGLISH.items():
        if (root / place).exists():
            found["en", name] = reader(root / place)
    russian = root / "ru/ruspellru"
    if russian.is_dir():
        found["ru", "ruspellru"] = parallel(russian / "sources.txt.gz", russian / "corrections.txt.gz")
    for file in sorted((root / "multilingual/libreoffice").glob("*.tsv.gz")):
        tag = file.name.removesuffix(".tsv.gz")
        found[tag, "autocorrect"] = autocorrect(file)
    return {key: list(_clean(pairs)) for key, pairs in found.items()}


def _clean(pairs: Iterable[Pair]) -> Iterator[Pair]:
    for wrong, right, count in pairs:
        a, b = normal_word(wrong), normal_word(right)
        if (
            a
            and b
            and a != b
            and len(a) <= 30
            and len(b) <= 30
            and all(c.isalpha() or c in "'- " or ord(c) > 0x2FF for c in a + b)
        ):
            yield Pair(a, b, count)


def _lines(path: Path) -> list[str]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [line.rstrip("\r") for line in text.decode("utf-8-sig").split("\n") if line.strip()]
