"""Other engines on the same documents and queries. bm25s runs in an environment of its own:

python benchmarks/searching/peers.py < {"documents": [...], "queries": [...], "limit": n} > JSON
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BM25S = Path("/work/peers/search/bin/python")
"""An environment with bm25s and PyStemmer (pip install bm25s PyStemmer)."""


def bm25s(documents: Sequence[str], queries: Sequence[str], limit: int) -> dict[str, Any] | None:
    """Numbers of the documents that bm25s ranks first, stop words and stems of English, and its times."""
    if not BM25S.exists():
        return None
    given = json.dumps({"documents": list(documents), "queries": list(queries), "limit": limit})
    ran = subprocess.run([BM25S, __file__], input=given, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


class Fts5:
    """SQLite's FTS5 with Porter's stemmer: title and body, any word of the query."""

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        started = time.perf_counter()
        self._db = sqlite3.connect(":memory:")
        self._db.execute("CREATE VIRTUAL TABLE t USING fts5(title, body, tokenize='porter unicode61')")
        self._db.executemany(
            "INSERT INTO t(rowid, title, body) VALUES(?,?,?)", ((i, *r) for i, r in enumerate(rows))
        )
        self._db.commit()
        self.seconds = time.perf_counter() - started

    def search(self, query: str, limit: int) -> list[int]:
        """Numbers of the documents ranked first."""
        words = " OR ".join(f'"{w}"' for w in re.findall(r"\w+", query))
        found = self._db.execute("SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT ?", (words, limit))
        return [row[0] for row in found]


class Tantivy:
    """tantivy as its documentation begins: title and body, the parser's own query."""

    def __init__(
        self, rows: Sequence[tuple[str, str]], folder: Path | None = None, stem: bool = False
    ) -> None:
        import tantivy

        kind = "en_stem" if stem else "default"
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("id", fast=True)
        builder.add_text_field("title", stored=True, tokenizer_name=kind)
        builder.add_text_field("body", stored=True, tokenizer_name=kind)
        started = time.perf_counter()
        self._index = tantivy.Index(builder.build(), path=None if folder is None else str(folder))
        writer = self._index.writer(64 << 20, 1)
        for i, (title, body) in enumerate(rows):
            document = tantivy.Document()
            document.add_unsigned("id", i)
            document.add_text("title", title)
            document.add_text("body", body)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        self.seconds = time.perf_counter() - started
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, query: str, limit: int, stored: bool = False) -> list[int]:
        """Numbers of the documents ranked first; `stored`: also fetch what is stored of them."""
        plain = " ".join(re.findall(r"\w+", query.lower()))
        parsed, _ = self._index.parse_query_lenient(plain, ["title", "body"])
        addresses = [address for _, address in self._searcher.search(parsed, limit, count=False).hits]
        if stored:
            for address in addresses:
                self._searcher.doc(address)
        return [int(i) for i in self._searcher.fast_field_values("id", addresses) if i is not None]


def _main() -> None:
    import bm25s as library  # type: ignore[import-not-found]
    import Stemmer  # type: ignore[import-not-found]

    given = json.load(sys.stdin)
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: list[str]) -> Any:
        return library.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    started = time.perf_counter()
    index = library.BM25()
    index.index(tokens(given["documents"]), show_progress=False)
    seconds = time.perf_counter() - started
    limit = min(given["limit"], len(given["documents"]))
    found, times = [], []
    for query in given["queries"]:
        started = time.perf_counter()
        ranked, scores = index.retrieve(tokens([query]), k=limit, show_progress=False)
        times.append(time.perf_counter() - started)
        found.append([int(i) for i, s in zip(ranked[0], scores[0], strict=True) if s > 0])
    json.dump({"found": found, "index_seconds": seconds, "query_seconds": times}, sys.stdout)


if __name__ == "__main__":
    _main()
