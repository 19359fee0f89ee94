"""Data for `mainspring spell train` at a small size, and packages of lists with a few words in them."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mainspring.products.spelling import LANGUAGES
from mainspring.products.spelling.noise import misspell

_GERMAN = """
haus straße schön und der die das ein eine nicht kommen gehen sehen hören schreiben sprechen arbeiten
freund freundin schule lehrer kinder mutter vater bruder schwester fenster küche garten wasser brot
butter käse apfel morgen abend woche monat jahr stunde minute immer niemals vielleicht zwischen
gegenüber wirklich natürlich verstehen erklären beginnen anfangen aufhören geschichte wissenschaft
gesellschaft freiheit gleichheit
"""
GERMAN = _GERMAN.split()
NOVA = [a + b + c for a in "bdfglmprst" for b in ("ala", "eno", "iru", "ome") for c in ("r", "la", "to")]


def write(folder: Path) -> Path:
    """Misspellings of German and sentences in German and Lingua Franca Nova."""
    rng = np.random.default_rng(0)
    (folder / "spelling/multilingual/libreoffice").mkdir(parents=True)
    rows = [
        f"{misspell(word, LANGUAGES['de'], rng)}\t{word}\n"
        for word in GERMAN
        for _ in range(3)
        if len(word) > 3
    ]
    (folder / "spelling/multilingual/libreoffice/de.tsv.gz").write_bytes(
        gzip.compress("".join(rows).encode())
    )
    (folder / "multilingual/tatoeba").mkdir(parents=True)
    for code, words in (("deu", GERMAN), ("lfn", NOVA)):
        lines = [" ".join(rng.choice(words, 6)) + "." for _ in range(400)]
        path = folder / f"multilingual/tatoeba/tatoeba.{code}-eng.{code}.gz"
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """wordfreq and simplemma with what the commands ask of them."""
    frequencies = {word: 0.05 / (1 + i) for i, word in enumerate(GERMAN)}
    wordfreq = SimpleNamespace(
        available_languages=lambda size: {"de": size}, get_frequency_dict=lambda tag, size: frequencies
    )
    factory = SimpleNamespace(SUPPORTED_LANGUAGES=())
    monkeypatch.setitem(sys.modules, "wordfreq", wordfreq)  # type: ignore[arg-type]
    monkeypatch.setitem(
        sys.modules,
        "simplemma.strategies.dictionaries.dictionary_factory",
        factory,  # type: ignore[arg-type]
    )
