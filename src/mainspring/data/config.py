"""Settings of data: where text comes from, how it is split, and what a run reads."""

from __future__ import annotations

import codecs
from typing import Literal

from pydantic import Field, field_validator

from mainspring.config import Section
from mainspring.errors import suggest
from mainspring.text.languages import language_tag
from mainspring.text.normalize import NormalizeConfig
from mainspring.text.train import TokenizerSpec

Format = Literal["auto", "text", "jsonl", "csv", "tsv"]

EMBEDDED = ("embedded:docstrings", "embedded:udhr")
"""Paths that name the corpora which every installation has (`mainspring.data.embedded`)."""


class SourceConfig(Section):
    """One source of documents."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")
    """How mixtures and reports call it."""
    path: str
    """A file, a directory, a glob pattern, or `embedded:docstrings` or `embedded:udhr`; .gz and .zip are
    opened."""
    format: Format = "auto"
    """Of the files; auto goes by their names (.jsonl .ndjson .csv .tsv, else text)."""
    text_field: str = "text"
    """JSON lines: the field that holds the text (dots lead into objects); CSV and TSV: the column by its name
    in the header, or `#1`, `#2`, ... by its place in files without a header."""
    lang_field: str | None = None
    """Field or column that holds a document's language tag."""
    lang: str | None = None
    """BCP 47 tag of every document that names none itself."""
    documents: Literal["file", "paragraph", "line"] = "file"
    """Text files: what is one document. Paragraphs are parted by empty lines."""
    max_document_bytes: int = Field(1 << 16, ge=64)
    """Text files: a longer document becomes several, cut at line ends where there are any."""
    encoding: str = "utf-8"
    """Of the files; one in which ASCII is ASCII."""
    split_languages: bool = False
    """Keep a stream for each language, so that mixtures can balance them; else one stream for the source."""
    limit_bytes: int | None = Field(None, ge=1)
    """Stop after this much text."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            name = codecs.lookup(value).name
        except LookupError:
            raise ValueError(f"encoding {value!r} is unknown to Python") from None
        if 'a\n,"'.encode(name) != b'a\n,"':
            raise ValueError(f"encoding {value!r} does not contain ASCII; convert the files to UTF-8 first")
        return name

    @field_validator("lang")
    @classmethod
    def _canonical_tag(cls, value: str | None) -> str | None:
        return None if value is None else str(language_tag(value))

    @field_validator("path")
    @classmethod
    def _known_corpus(cls, value: str) -> str:
        if value.startswith("embedded:") and value not in EMBEDDED:
            raise ValueError(f"path {value!r} is no embedded corpus; {suggest(value, EMBEDDED)}")
        return value


class BuildConfig(Section):
    """What `mainspring data build` makes of sources."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Where documents come from."""
    tokenizer: str | TokenizerSpec = TokenizerSpec()
    """A tokenizer to load (path), or one to train."""
    normalize: NormalizeConfig = NormalizeConfig()
    """What happens to the text first."""
    holdout: float = Field(0.02, ge=0.0, lt=1.0)
    """Share of documents held out of training, chosen by the hash of their text."""


class DataConfig(Section):
    """What a run reads."""

    path: str
    """Directory that `mainspring data build` wrote."""
    seq_len: int = Field(ge=1)
    """Tokens in a row."""
    alpha: float = Field(1.0, ge=0.0)
    """A stream of n tokens is drawn in proportion to n^alpha: 1 as it comes, 0 evenly, 0.3 to 0.7 lifts small
    ones (Conneau and Lample 2019, arXiv 1901.07291, equation in section 3.1)."""
    weights: dict[str, float] | None = None
    """Shares of sources, or of streams, by name; then only those are read and alpha acts inside a source."""
    pairs: str | None = None
    """Directory of encoded pairs that `mainspring data pairs` wrote, for objectives on pairs; a row of them
    counts as `seq_len` tokens. Directions are drawn by alpha, as streams of text are."""
    pairs_share: float = Field(1.0, gt=0, le=1)
    """Share of rows that are pairs; below 1 the others are text, which an objective of kind `mixed` reads
    beside them."""
    pairs_per_row: int = Field(1, ge=1)
    """Neighbouring pairs of a row."""
