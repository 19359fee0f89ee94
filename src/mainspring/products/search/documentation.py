"""The quickstart's search: the beginning of the installed documentation, with the encoder made there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mainspring.errors import DataError
from mainspring.products.search.fit import features, fitted
from mainspring.products.search.heads import RankerCurve
from mainspring.products.search.index import Index
from mainspring.products.search.ingest import ingest
from mainspring.products.search.results import Hit
from mainspring.products.search.writer import STORE
from mainspring.recipes.quickstart import news

QUERIES = ("how do I parse command line arguments?", "count how often each element occurs", "compress data")
"""What is asked of the documentation."""
LIMIT_BYTES = 400_000
"""Documentation that is indexed, about: as much as gets vectors in seconds."""
_SHOWN = 3
_JUDGED = 100
_WORDS = RankerCurve(lexical=10.0, slope=1.0, middle=5.0)
"""By BM25 above all, for an encoder whose vectors tell nothing."""


def search_documentation(
    encoder: Path,
    index: Path,
    tell: news.Listener,
    *,
    limit_bytes: int = LIMIT_BYTES,
    queries: Sequence[str] = QUERIES,
) -> list[news.Answered]:
    """Index the installed documentation and answer some queries (`recipes.quickstart.Searching`).

    The ranker is fitted to how first sentences of modules find their modules, so that an encoder counts for
    what it can.

    Args:
        encoder: folder of the encoder.
        index: folder of the index; one that is there is gone on with.
        tell: is told how it went.
        limit_bytes: documentation to index, about.
        queries: what to ask.
    """
    began = time.perf_counter()
    made = not (index / STORE).exists()
    with Index.create(index, encoder=encoder) if made else Index.open(index) as opened:
        done = ingest(opened, limit_bytes=limit_bytes)
        ranker = _fit(opened) if done.added or done.encoded else "as before"
        counts = opened.store.counts()
        seconds = time.perf_counter() - began
        tell(news.Indexed(str(index), counts["documents"], counts["passages"], seconds, ranker))
        answered = []
        for query in queries:
            found = opened.search(query, top=_SHOWN)
            hits = tuple(_shown(hit) for hit in found.hits)
            answered.append(news.Answered(query, hits, found.seconds * 1e3))
            tell(answered[-1])
    return answered


def _fit(index: Index) -> str:
    """Keep the curve that fits; what ranking goes by, in words."""
    try:
        curve = fitted(features(index, _judged(index)))
    except DataError:  # too few modules, or vectors that tell nothing
        index.set_curve(_WORDS)
        return "words, for the vectors tell too little"
    index.set_curve(curve)
    return f"a passage's cosine, {curve.sentence:.2f} of a sentence's, {curve.lexical:.2f} of BM25"


def _judged(index: Index) -> dict[str, list[str]]:
    """First sentences of some modules, each with the module that it is of."""
    judged: dict[str, list[str]] = {}
    for key in index.store.keys(limit=_JUDGED):
        head = " ".join((index.text(key) or "")[:400].split()).partition(". ")[0]
        judged.setdefault(head[:200], []).append(key)
    return judged


def _shown(hit: Hit) -> news.Found:
    caption = " ".join(hit.captions[0].text.split()) if hit.captions else ""
    return news.Found(hit.title or hit.key, hit.relevance or 0.0, caption)
