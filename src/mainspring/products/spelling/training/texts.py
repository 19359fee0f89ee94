"""Running text of each language in halves: one to learn words from, one to report on."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from mainspring.products.spelling.languages import Language
from mainspring.products.spelling.training.pairs import half

_LEAST = 12


def sentences(language: Language, data: Path | None) -> Iterator[str]:
    """Sentences of the Tatoeba test set, where `data` has it, and lines of human rights."""
    if data is not None and language.tatoeba:
        code = language.tatoeba
        places = (
            [f"tatoeba.{code}-eng.{code}.gz"]
            if code != "eng"
            else ["tatoeba.deu-eng.eng.gz", "tatoeba.fra-eng.eng.gz"]
        )
        for name in places:
            path = data / "multilingual/tatoeba" / name
            if path.exists():
                yield from gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    if language.udhr:
        archive = resources.files("mainspring.data").joinpath("udhr2.zip").read_bytes()
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            lines = files.read(f"udhr2/{language.udhr}.txt").decode("utf-8").splitlines()
        yield from (line.strip() for line in lines[6:] if len(line.strip()) >= _LEAST)


def of_half(language: Language, data: Path | None, number: int) -> list[str]:
    """The sentences of one half, each once; a sentence's half is a hash of it."""
    return [s for s in dict.fromkeys(sentences(language, data)) if half(s) == number]


def named(language: Language, data: Path | None) -> list[str]:
    """Where the sentences of a language are from."""
    return [
        name
        for name, there in (("Tatoeba", language.tatoeba and data is not None), ("UDHR", language.udhr))
        if there
    ]
