"""Speed on passages of real documentation: indexing, words, semantic answers, suggestions, beside peers."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from benchmarks.harness import resume
from benchmarks.searching.peers import Fts5, Tantivy, bm25s
from mainspring.data import udhr_documents
from mainspring.infer import Engine
from mainspring.models import ModelConfig, resolve
from mainspring.nn import Transformer, initialize
from mainspring.products.search import Document, Index, ModelEncoder
from mainspring.products.search.documents import Span
from mainspring.products.search.encoder import Parts
from mainspring.products.search.ingest import ingest
from mainspring.products.suggest import Prefixes
from mainspring.products.suggest.phrases import CausalPhrases
from mainspring.serve.search import Service, create_search_app
from mainspring.text import train_tokenizer

WORK = Path("/tmp/mainspring-search")
"""Where indexes are kept between calls."""
DOCUMENTATION = Path("/work/peers/docs/tree")
"""Unpacked Debian packages of documentation: python3-doc, linux-doc, postgresql-doc, sqlite3-doc,
debian-reference-en. Without them the documentation of the installed Python packages is taken."""


class DrawnVectors:
    """For speed: passages get vectors at random, queries and captions those of a model."""

    def __init__(self, model: ModelEncoder) -> None:
        self._model, self.name, self.dim = model, model.name, model.dim
        self._rng = np.random.default_rng(0)
        self.drawing = False

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode(texts)

    def encode_parts(self, texts: Sequence[str], parts: Sequence[Sequence[Span]]) -> list[Parts]:
        if not self.drawing:
            return self._model.encode_parts(texts, parts)

        def unit(count: int) -> np.ndarray:
            drawn = self._rng.standard_normal((count, self.dim), dtype=np.float32)
            return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

        return [Parts(unit(1)[0], unit(len(spans))) for spans in parts]


def passages(count: int) -> list[tuple[str, str]]:
    """Passages of real documentation, each with the title of its page."""
    few = count <= 10_000
    debian = DOCUMENTATION.exists() and not few
    folder = WORK / f"pages-{'few' if few else 'debian' if debian else 'python'}"
    if not (folder / "store.sqlite").exists():
        with Index.create(folder, encoder=None) as index:
            paths = [str(DOCUMENTATION)] if debian else []
            ingest(index, paths, encode=False, limit_bytes=5_000_000 if few else None)
    with Index.open(folder, verify=False) as index:
        query = (
            "SELECT d.title, p.text FROM passages p JOIN documents d ON d.id = p.document "
            "ORDER BY p.id LIMIT ?"
        )
        return [(row[0], row[1].strip()) for row in index.store.connection.execute(query, (count,))]


def phrases() -> CausalPhrases:
    """A small causal model that completes what is typed: its time does not depend on what it has learnt."""
    tokenizer = train_tokenizer((d.text for d in udhr_documents()), kind="bpe", vocab_size=4096)
    config = resolve(ModelConfig(family="gpt2", preset="tiny"), tokenizer.vocab_size)
    return CausalPhrases(Engine(initialize(Transformer(config), seed=0), tokenizer, name="phrases"))


def questions(rows: Sequence[tuple[str, str]], count: int) -> list[str]:
    """Two to five neighbouring words of passages drawn at random."""
    rng = random.Random(1)
    found = []
    while len(found) < count:
        words = re.findall(r"[A-Za-z]{3,}", rng.choice(rows)[1])
        length = rng.randint(2, 5)
        if len(words) > length:
            at = rng.randrange(len(words) - length)
            found.append(" ".join(words[at : at + length]))
    return found


def timed(work: Callable[[str], object], queries: Sequence[str]) -> dict[str, float]:
    """Median and 99th percentile of a call, in milliseconds, after some calls that do not count."""
    for query in queries[:20]:
        work(query)
    times = []
    for query in queries:
        started = time.perf_counter()
        work(query)
        times.append((time.perf_counter() - started) * 1e3)
    return {"p50 ms": float(np.quantile(times, 0.5)), "p99 ms": float(np.quantile(times, 0.99))}


def big_index(rows: Sequence[tuple[str, str]], encoder: DrawnVectors) -> tuple[Index, float | None]:
    """The index of all passages, and documents a second where it was made now."""
    folder = WORK / f"passages-{len(rows)}"
    if (folder / "store.sqlite").exists():
        return Index.open(folder, encoder=encoder, verify=False), None
    index = Index.create(folder, encoder=encoder)
    started = time.perf_counter()
    for at in range(0, len(rows), 20_000):
        part = rows[at : at + 20_000]
        index.add(
            (Document(str(at + i), text, title, language="en") for i, (title, text) in enumerate(part)),
            encode=False,
        )
    rate = len(rows) / (time.perf_counter() - started)
    encoder.drawing = True
    index.encode()
    encoder.drawing = False
    return index, rate


def speed(count: int, model: ModelEncoder, parts: Path | None) -> list[dict[str, Any]]:
    """Rows of all systems: documents a second, and milliseconds of a query."""
    rows = passages(count)
    queries = questions(rows, 400 if count > 10_000 else 100)
    size = len(rows)
    encoder = DrawnVectors(model)

    def build() -> list[dict[str, Any]]:
        index, rate = big_index(rows, encoder)
        index.close()
        return [{"rate": rate}]

    built = resume(parts, f"build {size}", build)[0]["rate"]
    found: list[dict[str, Any]] = []

    def measure_ours() -> list[dict[str, Any]]:
        index, _ = big_index(rows, encoder)
        _ = index.search(queries[0])
        kinds: dict[str, Callable[[str], object]] = {
            "words, 10 with titles": lambda q: index.search(q, captions=False, semantic=False),
            "words, 10 with captions": lambda q: index.search(q, semantic=False),
            "semantic, 10 without captions": lambda q: index.search(q, captions=False),
            "semantic, 10 with captions": lambda q: index.search(q),
        }
        return [
            {"system": "Mainspring", "passages": size, "docs/s": built, "query": name, **timed(work, queries)}
            for name, work in kinds.items()
        ]

    def measure_int8() -> list[dict[str, Any]]:
        index, _ = big_index(rows, DrawnVectors(ModelEncoder.load(precision="int8")))
        _ = index.search(queries[0])
        again = timed(index.search, queries)
        return [
            {"system": "Mainspring", "passages": size, "query": "semantic, 10 with captions, int8", **again}
        ]

    def measure_tantivy() -> list[dict[str, Any]]:
        engine = Tantivy(rows)
        rate = size / engine.seconds
        again = timed(lambda q: engine.search(q, 10, stored=True), queries)
        return [
            {"system": "tantivy", "passages": size, "docs/s": rate, "query": "words, 10 with titles", **again}
        ]

    def measure_fts5() -> list[dict[str, Any]]:
        engine = Fts5(rows)
        again = timed(lambda q: engine.search(q, 10), queries[:100])
        return [
            {
                "system": "SQLite FTS5",
                "passages": size,
                "docs/s": size / engine.seconds,
                "query": "any word, 10",
                **again,
            }
        ]

    def measure_bm25s() -> list[dict[str, Any]]:
        peer = bm25s([f"{t} {x}" for t, x in rows], queries[:100], 10)
        if peer is None:
            return []
        times = np.asarray(peer["query_seconds"]) * 1e3
        quantiles = {"p50 ms": float(np.quantile(times, 0.5)), "p99 ms": float(np.quantile(times, 0.99))}
        return [
            {
                "system": "bm25s",
                "passages": size,
                "docs/s": size / peer["index_seconds"],
                "query": "words, 10",
                **quantiles,
            }
        ]

    def measure_suggestions() -> list[dict[str, Any]]:
        titles = Prefixes({f"{text[:60]}": float(i % 97) for i, (_, text) in enumerate(rows)}, "title")
        typed = [q[: 1 + i % 8] for i, q in enumerate(queries)]
        return [
            {
                "system": "Mainspring",
                "passages": size,
                "query": "suggest, 8 of a prefix",
                **timed(lambda q: titles.complete(q, 8), typed),
            }
        ]

    def measure_api() -> list[dict[str, Any]]:
        index, _ = big_index(rows, encoder)
        with TestClient(create_search_app({"pages": Service(index, model=phrases())})) as client:
            typed = [q[: 1 + i % 12] for i, q in enumerate(queries)]

            def suggest(text: str) -> None:
                answer = client.post("/indexes/pages/docs/suggest", json={"search": text, "top": 8})
                assert answer.status_code == 200, answer.text

            return [
                {
                    "system": "Mainspring",
                    "passages": size,
                    "query": "suggest over HTTP, titles and a model",
                    **timed(suggest, typed),
                }
            ]

    for name, work in {
        "ours": measure_ours,
        "int8": measure_int8,
        "tantivy": measure_tantivy,
        "fts5": measure_fts5,
        "bm25s": measure_bm25s,
        "suggest": measure_suggestions,
        "suggest over HTTP": measure_api,
    }.items():
        found += resume(parts, f"speed {name} {size}", work)
    return found
