"""The document store: what was acknowledged, in one SQLite database that lexical and dense index derive from.

A commit of this database is the acknowledgement. The lexical index is told afterwards, and catches up from
here when a process dies between the two (`generation` beside `lexical_generation`); vectors follow passage by
passage (`passages.segment`). Documents that were replaced or deleted keep their rows until the lexical index
no longer shows them, so that a reader of an older snapshot still finds what its hits name.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mainspring.errors import SearchIndexError
from mainspring.products.search.documents import Document, Passage, Span

FORMAT = 1
_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents(
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, title TEXT NOT NULL, url TEXT,
    language TEXT NOT NULL, source TEXT,
    hash BLOB NOT NULL, fields TEXT NOT NULL, added INTEGER NOT NULL, deleted INTEGER);
CREATE UNIQUE INDEX documents_live ON documents(key) WHERE deleted IS NULL;
CREATE INDEX documents_source ON documents(source) WHERE deleted IS NULL;
CREATE INDEX documents_added ON documents(added);
CREATE INDEX documents_deleted ON documents(deleted) WHERE deleted IS NOT NULL;
CREATE TABLE passages(
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, start INTEGER NOT NULL,
    text TEXT NOT NULL, sentences BLOB NOT NULL, segment INTEGER);
CREATE INDEX passages_document ON passages(document);
CREATE INDEX passages_segment ON passages(segment, id);
CREATE TABLE segments(id INTEGER PRIMARY KEY AUTOINCREMENT, passages INTEGER NOT NULL);
CREATE TABLE sources(name TEXT PRIMARY KEY, hash BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE files(name TEXT PRIMARY KEY, size INTEGER NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
"""

# Of a document that is being replaced, a reader may meet both: the later one counts (`Index.search`).
_LIVE_AT = "(d.deleted IS NULL OR d.deleted > ?)"


class StoredPassage(NamedTuple):
    """A passage as the store holds it."""

    id: int
    """Its number, never used twice."""
    document: int
    """Its document's number."""
    start: int
    """Where it begins in the document's text."""
    text: str
    """Its text."""
    sentences: tuple[Span, ...]
    """Its sentences within the text."""


class StoredDocument(NamedTuple):
    """A document without its text."""

    id: int
    """Its number, never used twice."""
    key: str
    """What names it."""
    title: str
    """Its title, empty where it has none."""
    url: str | None
    """Where a person can read it."""
    language: str
    """BCP 47 tag, `und` where unknown."""
    fields: Mapping[str, Any]
    """What else is known of it."""


class ToIndex(NamedTuple):
    """A passage as the lexical index takes it."""

    id: int
    document: int
    title: str
    text: str
    language: str


class Store:
    """The database of one index. One thread at a time writes; each has a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Open what is there.

        Raises:
            SearchIndexError: there is nothing, or it is of another format, or damaged.
        """
        if not path.is_file():
            raise SearchIndexError(
                f"{path.parent}: no index is here; make one: mainspring search index PATH --to INDEX"
            )
        self.path = path
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            found = self.meta("format")
        except sqlite3.DatabaseError as error:
            raise SearchIndexError(
                f"{path}: the document store is damaged ({error}); the documents themselves are lost: index "
                "their sources into a new folder"
            ) from error
        if found != str(FORMAT):
            raise SearchIndexError(
                f"{path}: has format {found}, and this version reads {FORMAT}; index the documents anew"
            )

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, str]) -> Store:
        """Make an empty store that holds some facts of the whole index."""
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        facts = {"format": str(FORMAT), "generation": "0", "lexical_generation": "0", **meta}
        connection.executemany("INSERT INTO meta VALUES(?, ?)", facts.items())
        connection.execute("COMMIT")
        connection.close()
        return cls(path)

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        made: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if made is None:
            made = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
            made.execute("PRAGMA synchronous=FULL")
            made.execute("PRAGMA cache_size=-16384")
            self._local.connection = made
            with self._lock:
                self._all.append(made)
        return made

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()
        self._local = threading.local()

    def meta(self, name: str) -> str | None:
        """A fact of the whole index."""
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Set a fact of the whole index; a transaction of its own where none is open."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (name, value))

    @property
    def generation(self) -> int:
        """Number of the last commit."""
        return int(self.meta("generation") or 0)

    @property
    def lexical_generation(self) -> int:
        """Number of the last commit that the lexical index has."""
        return int(self.meta("lexical_generation") or 0)

    # Reading

    def passages(self, ids: Sequence[int]) -> dict[int, StoredPassage]:
        """Passages by number, those of documents that are gone included while their rows last."""
        query = f"SELECT id, document, start, text, sentences FROM passages WHERE id IN ({_marks(ids)})"
        return {row[0]: _passage(row) for row in self.connection.execute(query, list(ids))}

    def documents(self, ids: Sequence[int]) -> dict[int, StoredDocument]:
        """Documents by number, those that are gone included while their rows last."""
        query = f"SELECT id, key, title, url, language, fields FROM documents WHERE id IN ({_marks(ids)})"
        return {row[0]: _document(row) for row in self.connection.execute(query, list(ids))}

    def find(self, key: str) -> StoredDocument | None:
        """The live document of a key."""
        row = self.connection.execute(
            "SELECT id, key, title, url, language, fields FROM documents WHERE key = ? AND deleted IS NULL",
            (key,),
        ).fetchone()
        return None if row is None else _document(row)

    def text(self, document: int) -> str:
        """A document's whole text."""
        rows = self.connection.execute(
            "SELECT text FROM passages WHERE document = ? ORDER BY start", (document,)
        )
        return "".join(row[0] for row in rows)

    def owners(self, passages: Sequence[int], generation: int) -> dict[int, tuple[int, str]]:
        """Number and key of the document of each passage, where that was live after a commit."""
        query = (
            "SELECT p.id, p.document, d.key FROM passages p JOIN documents d ON d.id = p.document "
            f"WHERE {_LIVE_AT} AND p.id IN ({_marks(passages)})"
        )
        rows = self.connection.execute(query, [generation, *passages])
        return {row[0]: (row[1], row[2]) for row in rows}

    def passages_of(self, documents: Sequence[int]) -> list[int]:
        """Numbers of the passages of documents."""
        found: list[int] = []
        for i in range(0, len(documents), 5000):
            part = list(documents[i : i + 5000])
            query = f"SELECT id FROM passages WHERE document IN ({_marks(part)})"
            found += [row[0] for row in self.connection.execute(query, part)]
        return found

    def matching(self, where: str, values: Sequence[Any], generation: int) -> list[int]:
        """Numbers of the documents that a condition on the table `documents` selects, as of a commit."""
        query = f"SELECT id FROM documents d WHERE {_LIVE_AT} AND ({where})"
        return [row[0] for row in self.connection.execute(query, [generation, *values])]

    def keys(
        self,
        where: str = "1",
        values: Sequence[Any] = (),
        *,
        limit: int = -1,
        offset: int = 0,
        order: str = "",
        order_values: Sequence[Any] = (),
    ) -> list[str]:
        """Keys of live documents that a condition selects, in some order, then in that of their numbers."""
        ordered = f"{order}, id" if order else "id"
        live = f"SELECT key FROM documents WHERE deleted IS NULL AND ({where})"
        given = [*values, *order_values, limit, offset]
        return [
            row[0] for row in self.connection.execute(f"{live} ORDER BY {ordered} LIMIT ? OFFSET ?", given)
        ]

    def count(self, where: str, values: Sequence[Any]) -> int:
        """Number of live documents that a condition selects."""
        query = f"SELECT count(*) FROM documents WHERE deleted IS NULL AND ({where})"
        return int(self.connection.execute(query, list(values)).fetchone()[0])

    def field_names(self) -> list[str]:
        """Names of the fields that live documents have."""
        query = (
            "SELECT DISTINCT f.key FROM documents d, json_each(d.fields) f "
            "WHERE d.deleted IS NULL AND d.fields <> '{}' ORDER BY 1"
        )
        return [row[0] for row in self.connection.execute(query)]

    def counts(self) -> dict[str, int]:
        """Live documents and passages, and passages that have vectors."""
        row = self.connection.execute(
            "SELECT (SELECT count(*) FROM documents WHERE deleted IS NULL), count(*), count(p.segment) "
            "FROM passages p JOIN documents d ON d.id = p.document WHERE d.deleted IS NULL"
        ).fetchone()
        return {"documents": row[0], "passages": row[1], "encoded": row[2]}

    def languages(self) -> dict[str, int]:
        """Number of live documents in each language."""
        rows = self.connection.execute(
            "SELECT language, count(*) FROM documents WHERE deleted IS NULL GROUP BY language ORDER BY 2 DESC"
        )
        return dict(rows.fetchall())

    def titles(self) -> Iterator[str]:
        """Titles of live documents."""
        for row in self.connection.execute(
            "SELECT title FROM documents WHERE deleted IS NULL AND title <> ''"
        ):
            yield row[0]

    def hashes(self, keys: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        """Number and digest of the live documents of some keys."""
        query = f"SELECT key, id, hash FROM documents WHERE deleted IS NULL AND key IN ({_marks(keys)})"
        return {row[0]: (row[1], row[2]) for row in self.connection.execute(query, list(keys))}

    def sources(self) -> dict[str, bytes]:
        """Names of the sources that were indexed, with the digest of each."""
        return dict(self.connection.execute("SELECT name, hash FROM sources ORDER BY name").fetchall())

    # Writing: inside a transaction of the writer

    def insert(
        self, document: Document, language: str, source: str | None, passages: Iterable[Passage], added: int
    ) -> int:
        """Add a document; the number that it got."""
        cursor = self.connection.execute(
            "INSERT INTO documents(key, title, url, language, source, hash, fields, added) "
            "VALUES(?,?,?,?,?,?,?,?)",
            (
                document.key,
                document.title,
                document.url,
                language,
                source,
                document.hash,
                json.dumps(dict(document.fields), ensure_ascii=False),
                added,
            ),
        )
        number = cursor.lastrowid
        assert number is not None
        self.connection.executemany(
            "INSERT INTO passages(document, start, text, sentences) VALUES(?,?,?,?)",
            ((number, p.start, p.text, _packed(p.sentences)) for p in passages),
        )
        return number

    def mark_deleted(self, documents: Iterable[int], generation: int) -> None:
        """Hide documents from this commit on."""
        self.connection.executemany(
            "UPDATE documents SET deleted = ? WHERE id = ?", ((generation, number) for number in documents)
        )

    def purge(self, before: int) -> None:
        """Remove what commits up to `before` deleted."""
        gone = "SELECT id FROM documents WHERE deleted IS NOT NULL AND deleted <= ?"
        self.connection.execute(f"DELETE FROM passages WHERE document IN ({gone})", (before,))
        self.connection.execute("DELETE FROM documents WHERE deleted IS NOT NULL AND deleted <= ?", (before,))

    def deleted_since(self, generation: int) -> list[int]:
        """Numbers of documents that later commits deleted."""
        rows = self.connection.execute("SELECT id FROM documents WHERE deleted > ?", (generation,))
        return [row[0] for row in rows]

    def added_since(self, generation: int) -> Iterator[ToIndex]:
        """Passages of the live documents that later commits added."""
        rows = self.connection.execute(
            "SELECT p.id, p.document, d.title, p.text, d.language FROM documents d JOIN passages p "
            "ON p.document = d.id WHERE d.deleted IS NULL AND d.added > ? ORDER BY p.id",
            (generation,),
        )
        return (ToIndex(*row) for row in rows)

    def without_vectors(self, limit: int) -> list[StoredPassage]:
        """Some live passages that no segment of vectors holds."""
        rows = self.connection.execute(
            "SELECT p.id, p.document, p.start, p.text, p.sentences FROM passages p JOIN documents d "
            "ON d.id = p.document WHERE p.segment IS NULL AND d.deleted IS NULL ORDER BY p.id LIMIT ?",
            (limit,),
        )
        return [_passage(row) for row in rows]

    def segments(self) -> dict[int, int]:
        """Number of each segment of vectors, with the number of passages it was written with."""
        return dict(self.connection.execute("SELECT id, passages FROM segments ORDER BY id").fetchall())

    def live_passages(self) -> list[int]:
        """Numbers of the passages of live documents."""
        query = (
            "SELECT p.id FROM passages p JOIN documents d ON d.id = p.document "
            "WHERE d.deleted IS NULL ORDER BY p.id"
        )
        return [row[0] for row in self.connection.execute(query)]

    def live_in(self, segments: Sequence[int]) -> list[int]:
        """Live passages of some segments."""
        query = (
            "SELECT p.id FROM passages p JOIN documents d ON d.id = p.document "
            f"WHERE d.deleted IS NULL AND p.segment IN ({_marks(segments)}) ORDER BY p.id"
        )
        return [row[0] for row in self.connection.execute(query, list(segments))]

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and CRC-32 of the files of the derived indexes."""
        return {
            row[0]: (row[1], row[2]) for row in self.connection.execute("SELECT name, size, crc FROM files")
        }

    def add_segment(self, passages: Sequence[int], replaced: Sequence[int]) -> int:
        """Enter a segment that holds the vectors of some passages, in place of others; its number."""
        cursor = self.connection.execute("INSERT INTO segments(passages) VALUES(?)", (len(passages),))
        number = cursor.lastrowid
        assert number is not None
        self.connection.executemany(
            "UPDATE passages SET segment = ? WHERE id = ?", ((number, passage) for passage in passages)
        )
        self.remove_segments(replaced)
        return number

    def remove_segments(self, numbers: Sequence[int]) -> None:
        """Strike segments out; passages that they held have no vectors any more."""
        marks = _marks(numbers)
        self.connection.execute(
            f"UPDATE passages SET segment = NULL WHERE segment IN ({marks})", list(numbers)
        )
        self.connection.execute(f"DELETE FROM segments WHERE id IN ({marks})", list(numbers))

    def next_segment(self) -> int:
        """The number that the next segment will get."""
        row = self.connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").fetchone()
        return 1 if row is None else int(row[0]) + 1

    def set_source(self, name: str, digest: bytes) -> None:
        """Remember a source's digest."""
        self.connection.execute("INSERT OR REPLACE INTO sources VALUES(?,?)", (name, digest))

    def remove_sources(self, names: Sequence[str]) -> list[int]:
        """Forget sources; numbers of the live documents that came from them."""
        found: list[int] = []
        for source in names:
            rows = self.connection.execute(
                "SELECT id FROM documents WHERE deleted IS NULL AND source = ?", (source,)
            )
            found += [row[0] for row in rows]
            self.connection.execute("DELETE FROM sources WHERE name = ?", (source,))
        return found

    def of_source(self, source: str) -> dict[str, int]:
        """Key and number of the live documents of a source."""
        rows = self.connection.execute(
            "SELECT key, id FROM documents WHERE deleted IS NULL AND source = ?", (source,)
        )
        return dict(rows.fetchall())

    def set_files(self, files: Mapping[str, tuple[int, int]]) -> None:
        """Replace the table of files."""
        self.connection.execute("DELETE FROM files")
        self.connection.executemany(
            "INSERT INTO files VALUES(?,?,?)", ((name, size, crc) for name, (size, crc) in files.items())
        )

    def damage(self) -> str | None:
        """What SQLite finds wrong with its file, None where it finds nothing."""
        try:
            row = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            return str(error)
        return None if row[0] == "ok" else " ".join(str(row[0]).split())


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _packed(sentences: Sequence[Span]) -> bytes:
    return array("H", [bound for span in sentences for bound in span]).tobytes()


def _passage(row: tuple[Any, ...]) -> StoredPassage:
    bounds = array("H")
    bounds.frombytes(row[4])
    spans = tuple(Span(bounds[i], bounds[i + 1]) for i in range(0, len(bounds), 2))
    return StoredPassage(row[0], row[1], row[2], row[3], spans)


def _document(row: tuple[Any, ...]) -> StoredDocument:
    return StoredDocument(row[0], row[1], row[2], row[3], row[4], json.loads(row[5]))
