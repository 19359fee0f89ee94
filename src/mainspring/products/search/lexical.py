"""The lexical index: passages by their words, scored by BM25, behind a protocol; tantivy is the engine.

Each passage has the field `text` (its document's title and its own text) and the field `title`; BM25 over
`text` with a boost of the title is what was best on the tuning half of Cranfield and CISI. Terms are counted
in the query too (`analysis.terms`): tantivy's own query parser drops repeated words, which is what it lost
against other engines on long questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mainspring.errors import SearchIndexError, require
from mainspring.products.search.analysis import analyzer, segmented, terms
from mainspring.products.search.store import ToIndex

TITLE_BOOST = 0.25
"""Weight of a match in the title beside one in the text, which holds the title too."""
_HEAP = 64 << 20
_MOST_TERMS = 256
_AT_ONCE = 1000
_SYNTAX = re.compile(r'(?<!\S)([+-]?)(?:"([^"]*)"|(\S+))')


def plain(query: str) -> str | None:
    """The words of a query without its marks; None where it has no marks, so that meaning alone may find.

    >>> plain('water -"sea salt"'), plain("water")
    ('water', None)
    """
    found = _SYNTAX.findall(query)
    if not any(sign or phrase for sign, phrase, _ in found):
        return None
    return " ".join(phrase or word for sign, phrase, word in found if sign != "-")


class Scored(NamedTuple):
    """A passage with its score."""

    passage: int
    """Its number."""
    score: float
    """Larger is better."""


class LexicalView(Protocol):
    """A lexical index as it was at one moment; any number of threads and processes read."""

    def search(
        self, query: str, limit: int, *, languages: Collection[str], within: Sequence[int] | None = None
    ) -> list[Scored]:
        """The passages that fit best. Any text is a query.

        Args:
            query: words; a phrase in quotes, `-word` for what may not occur, `+word` for what must.
            limit: how many.
            languages: those whose analysis reads the query.
            within: numbers of the documents to look among (None: all).
        """
        ...

    def terms_with_prefix(self, prefix: str, limit: int) -> list[tuple[str, int]]:
        """Words of titles that begin so, and the number of passages each occurs in."""
        ...

    @property
    def passages(self) -> int:
        """Number of passages."""
        ...


class LexicalIndex(Protocol):
    """What an index asks of a lexical engine; one process at a time writes."""

    def view(self) -> LexicalView:
        """The index as it is now."""
        ...

    def write(self, deleted: Sequence[int], added: Iterable[ToIndex], *, again: bool = False) -> None:
        """Remove documents by number and add passages, in one commit that holds once this returns.

        Args:
            deleted: documents to remove; those that are not there are passed over.
            added: passages to add.
            again: some passages may be there already, and are replaced.
        """
        ...


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


class TantivyView:
    """A searcher of a tantivy index, a `LexicalView`."""

    def __init__(self, tantivy: Any, searcher: Any, schema: Any) -> None:
        self._tantivy, self._searcher, self._schema = tantivy, searcher, schema

    @property
    def passages(self) -> int:
        """Number of passages."""
        return int(self._searcher.num_docs)

    def search(
        self, query: str, limit: int, *, languages: Collection[str], within: Sequence[int] | None = None
    ) -> list[Scored]:
        """The passages that fit best (see `LexicalView.search`)."""
        built = self._query(query, languages, within)
        if built is None:
            return []
        hits = self._searcher.search(built, limit, count=False).hits
        numbers = self._searcher.fast_field_values("passage", [address for _, address in hits])
        return [Scored(number, score) for (score, _), number in zip(hits, numbers, strict=True)]

    def terms_with_prefix(self, prefix: str, limit: int) -> list[tuple[str, int]]:
        """Words of titles that begin so, and the number of passages each occurs in."""
        found: list[tuple[str, int]] = self._searcher.terms_with_prefix("spelt", prefix, limit=limit)
        return found

    def _query(self, text: str, languages: Collection[str], within: Sequence[int] | None) -> Any:
        query, occur = self._tantivy.Query, self._tantivy.Occur
        clauses: list[tuple[Any, Any]] = []
        free: list[str] = []
        scored = False
        for sign, phrase, word in _SYNTAX.findall(text):
            if not phrase and not sign:
                free.append(word)
                continue
            clause = self._phrase(phrase or word.strip('"'), languages)
            if clause is not None:
                scored = scored or sign != "-"
                must = occur.MustNot if sign == "-" else occur.Must
                clauses.append((must, clause))
        counted = sorted(terms(" ".join(free), languages).items(), key=lambda item: -item[1])[:_MOST_TERMS]
        for term, count in counted:
            for name, boost in (("text", 1.0), ("title", TITLE_BOOST)):
                match = query.term_query(self._schema, name, term, "freq")
                clauses.append((occur.Should, query.boost_query(match, boost * count)))
        if not counted and not scored:
            return None
        built = query.boolean_query(clauses)
        if within is None:
            return built
        allowed = query.const_score_query(query.term_set_query(self._schema, "document", list(within)), 0.0)
        return query.boolean_query([(occur.Must, built), (occur.Must, allowed)])

    def _phrase(self, text: str, languages: Collection[str]) -> Any:
        """What a phrase or a single marked word matches, in any of the languages; None for no word at all."""
        query = self._tantivy.Query
        readings = {tuple(analyzer(language).analyze(segmented(text))) for language in languages}
        choices = [
            query.term_query(self._schema, "text", words[0], "position")
            if len(words) == 1
            else query.phrase_query(self._schema, "text", list(words))
            for words in sorted(readings)
            if words
        ]
        if not choices:
            return None
        occur = self._tantivy.Occur
        return choices[0] if len(choices) == 1 else query.boolean_query([(occur.Should, c) for c in choices])


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
