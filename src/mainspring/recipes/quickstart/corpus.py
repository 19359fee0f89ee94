"""The quickstart's corpus: documentation of the installed Python modules, and human rights in 388 languages.

The Universal Declaration is cut into pieces of a few articles, each a document, so that what is held out of a
language has the rest of that language to learn it from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mainspring.data.build import BuildReport, Progress, Source, build
from mainspring.data.config import SourceConfig
from mainspring.data.documents import Document
from mainspring.data.embedded import udhr_documents
from mainspring.data.shards import MANIFEST
from mainspring.text.train import TokenizerSpec

PIECE = 1200
"""Characters of a piece of the declaration, about."""


@dataclass(frozen=True)
class Corpus:
    """What the quickstart learns from."""

    limit_bytes: int = 16_000_000
    """Documentation, at most."""
    vocab_size: int = 8192
    """Entries of the tokenizer."""
    holdout: float = 0.02
    """Share of documents held out."""
    languages: int = 388
    """Declarations of so many languages, in order of their tags."""


class Declarations:
    """Pieces of the declaration as documents; can be iterated again and again."""

    def __init__(self, languages: int) -> None:
        self.languages = languages

    def __iter__(self) -> Iterator[Document]:
        for number, document in enumerate(udhr_documents()):
            if number >= self.languages:
                return
            for index, text in enumerate(pieces(document.text, PIECE)):
                yield document._replace(text=text, id=f"{document.id}#{index}")


def pieces(text: str, size: int) -> Iterator[str]:
    """Cut a text at line ends into pieces of at least `size` characters; a short rest goes with the last.

    >>> list(pieces("aa\\nbb\\ncc", 4))
    ['aa\\nbb\\ncc']
    >>> list(pieces("aa\\nbb\\ncc\\ndd", 4))
    ['aa\\nbb', 'cc\\ndd']
    """
    lines = text.splitlines()
    piece: list[str] = []
    held = 0
    rest = len(text)
    for line in lines:
        piece.append(line)
        held += len(line)
        rest -= len(line) + 1
        if held >= size and rest >= size:
            yield "\n".join(piece)
            piece, held = [], 0
    if piece:
        yield "\n".join(piece)


def prepare(
    corpus: Corpus, out_dir: Path, progress: Callable[[Progress], None] | None = None
) -> BuildReport | None:
    """Build the corpus in `out_dir`, or return None where the same corpus is there already."""
    settings = out_dir / "corpus.json"
    wanted = json.dumps(asdict(corpus), indent=1) + "\n"
    if (
        settings.is_file()
        and (out_dir / MANIFEST).is_file()
        and settings.read_text(encoding="utf-8") == wanted
    ):
        return None
    settings.unlink(missing_ok=True)
    sources: list[Source] = [
        SourceConfig(name="docstrings", path="embedded:docstrings", limit_bytes=corpus.limit_bytes),
        ("udhr", Declarations(corpus.languages)),
    ]
    report = build(
        sources,
        TokenizerSpec(vocab_size=corpus.vocab_size),
        out_dir,
        holdout=corpus.holdout,
        progress=progress,
    )
    settings.write_text(wanted, encoding="utf-8")
    return report
