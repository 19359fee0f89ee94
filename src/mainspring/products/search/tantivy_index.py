"""tantivy as the lexical engine: an index in a folder that one process writes.

Each passage has the field `text` (its document's title and its own text) and the field `title`; BM25 over
`text` with a boost of the title is what was best on the tuning half of Cranfield and CISI.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mainspring.errors import SearchIndexError, require
from mainspring.products.search.analysis import analyzer, segmented
from mainspring.products.search.store import ToIndex
from mainspring.products.search.tantivy_view import TantivyView

_HEAP = 64 << 20
_AT_ONCE = 1000


class TantivyIndex:
    """A tantivy index in a folder, a `LexicalIndex`."""

    def __init__(self, folder: Path, language: str) -> None:
        """Open a folder, or make an empty index in it.

        Args:
            folder: where it is; made where absent.
            language: whose analysis most documents take.

        Raises:
            SearchIndexError: its files are damaged; the message has the engine's own words.
            MissingExtraError: tantivy is not installed.
        """
        self.language = language
        self._tantivy = require("tantivy", "search")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        try:
            self._index = self._tantivy.Index(_schema(self._tantivy), path=str(folder))
        except ValueError as error:
            raise SearchIndexError(f"{folder}: the lexical index cannot be opened ({error})") from error
        self._index.register_tokenizer("words", analyzer(language))
        self._index.config_reader(reload_policy="manual")

    def view(self) -> TantivyView:
        """The index as it is now."""
        self._index.reload()
        return TantivyView(self._tantivy, self._index.searcher(), self._index.schema)

    def write(self, deleted: Sequence[int], added: Iterable[ToIndex], *, again: bool = False) -> None:
        """Remove documents and add passages in one commit (see `LexicalIndex.write`)."""
        writer = self._index.writer(_HEAP, 1)
        try:
            _remove_unfinished(self._folder)
            self._remove(writer, "document", deleted)
            passages = iter(added)
            while batch := list(islice(passages, _AT_ONCE)):
                if again:
                    self._remove(writer, "passage", [passage.id for passage in batch])
                for passage in batch:
                    writer.add_document(self._row(passage))
            writer.commit()
        finally:
            writer.wait_merging_threads()

    def _remove(self, writer: Any, field: str, numbers: Sequence[int]) -> None:
        # By query: deleting by term silently does nothing on a field of numbers (tantivy-py 0.27).
        if numbers:
            query = self._tantivy.Query.term_set_query(self._index.schema, field, list(numbers))
            writer.delete_documents_by_query(query)

    def _row(self, passage: ToIndex) -> Any:
        row = self._tantivy.Document()
        row.add_unsigned("passage", passage.id)
        row.add_unsigned("document", passage.document)
        title, text = segmented(passage.title), segmented(f"{passage.title}\n{passage.text}")
        if passage.language == self.language:
            row.add_text("title", title)
            row.add_text("text", text)
        else:
            reads = analyzer(passage.language)
            row.add_pre_tokenized_text("title", reads.pre_tokenize(title))
            row.add_pre_tokenized_text("text", reads.pre_tokenize(text))
        row.add_text("spelt", passage.title)
        return row


def segment_files(folder: Path) -> list[str]:
    """Names of the files that the index in a folder consists of, beside its own table of them.

    Raises:
        SearchIndexError: the table is missing or damaged.
    """
    segments = _segments(folder)
    return sorted(p.name for p in folder.iterdir() if p.name.split(".")[0] in segments)


def _segments(folder: Path) -> dict[str, str | None]:
    """Each segment of an index and its file of deletions, if it has one."""
    table = folder / "meta.json"
    try:
        found: dict[str, str | None] = {}
        for segment in json.loads(table.read_text(encoding="utf-8"))["segments"]:
            name = str(segment["segment_id"]).replace("-", "")
            deletes = segment["deletes"]
            found[name] = deletes and f"{name}.{deletes['opstamp']}.del"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SearchIndexError(
            f"{table}: the lexical index's table of segments is damaged ({error})"
        ) from error
    return found


def _remove_unfinished(folder: Path) -> None:
    """Remove deletions that a writer did not live to commit: the next ones would get the same names."""
    kept = set(_segments(folder).values())
    for file in folder.glob("*.del"):
        if file.name not in kept:
            file.unlink()


def _schema(tantivy: Any) -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("passage", indexed=True, fast=True)
    builder.add_unsigned_field("document", indexed=True, fast=True)
    builder.add_text_field("text", tokenizer_name="words", index_option="position")
    builder.add_text_field("title", tokenizer_name="words", index_option="freq")
    builder.add_text_field("spelt", tokenizer_name="default", index_option="basic")
    return builder.build()
