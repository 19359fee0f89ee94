"""The dense index: vectors of passages in segments, each a folder of files that are written once and mapped.

A segment holds a graph over its passages' vectors (HNSW, Malkov and Yashunin 2018, of usearch: alive, and
mapped from disk) and the vectors of their sentences in int8, which ranking and
captions read. The store's table of segments says which count; a folder that it does not name is what a
process left that died while writing, and is removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import SearchIndexError, require
from mainspring.products.search.lexical import Scored

GRAPH = "passages.usearch"
FILES = (GRAPH, "ids.npy", "bounds.npy", "sentences.npy", "scales.npy")
"""Files of a segment."""
_EXACT_BELOW = 2000
Vectors = NDArray[np.float32]


class Encoded(NamedTuple):
    """Vectors of passages and of their sentences, all of length 1."""

    ids: NDArray[np.int64]
    """Passage numbers, ascending, [P]."""
    passages: Vectors
    """[P, D]."""
    bounds: NDArray[np.int64]
    """Sentences of passage i are rows bounds[i] to bounds[i + 1] of the next, [P + 1]."""
    sentences: NDArray[np.int8]
    """[S, D]: a row times its scale is the vector."""
    scales: NDArray[np.float32]
    """[S]."""


def quantised(vectors: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows as int8 with a scale each, symmetric: the error of an element is half a scale at most."""
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0.0), 1e-12) / 127.0
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales.astype(np.float32)


class Segment:
    """A segment in its folder, mapped."""

    def __init__(self, folder: Path) -> None:
        """Map the files.

        Raises:
            SearchIndexError: one is missing or damaged.
        """
        self.folder = folder
        try:
            self.ids = np.load(folder / "ids.npy", mmap_mode="r")
            self._bounds = np.load(folder / "bounds.npy", mmap_mode="r")
            self._sentences = np.load(folder / "sentences.npy", mmap_mode="r")
            self._scales = np.load(folder / "scales.npy", mmap_mode="r")
            self._graph = require("usearch.index", "search").Index.restore(str(folder / GRAPH), view=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise SearchIndexError(f"{folder}: a segment of vectors is damaged ({error})") from error
        if self._graph is None or len(self._graph) != len(self.ids):
            raise SearchIndexError(
                f"{folder}: a segment of vectors is damaged: {GRAPH} does not hold its passages"
            )

    def search(self, query: Vectors, count: int) -> list[Scored]:
        """The nearest passages, by cosine."""
        exact = len(self.ids) <= _EXACT_BELOW
        found = self._graph.search(query, min(count, len(self.ids)), exact=exact, threads=1)
        return [Scored(int(k), 1.0 - float(d)) for k, d in zip(found.keys, found.distances, strict=True)]

    def rows(self, passages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each passage here, -1 for those that are elsewhere."""
        at = np.minimum(np.searchsorted(self.ids, passages), len(self.ids) - 1)
        return np.where(self.ids[at] == passages, at, -1)

    def vectors(self, passages: NDArray[np.int64]) -> Vectors:
        """Vectors of passages that are here, [n, D]."""
        if not len(passages):
            return np.zeros((0, self._graph.ndim), np.float32)
        return np.asarray(self._graph.get(passages, np.float32), dtype=np.float32).reshape(len(passages), -1)

    def sentences(self, row: int) -> Vectors:
        """Vectors of the sentences of the passage in a row, [s, D]."""
        start, stop = int(self._bounds[row]), int(self._bounds[row + 1])
        vectors: Vectors = self._sentences[start:stop].astype(np.float32) * self._scales[start:stop, None]
        return vectors

    def subset(self, passages: NDArray[np.int64]) -> Encoded:
        """What a segment of some of its passages would hold."""
        rows = self.rows(passages)
        lengths = self._bounds[rows + 1] - self._bounds[rows]
        picked = [np.arange(self._bounds[r], self._bounds[r + 1]) for r in rows]
        index = np.concatenate([np.zeros(0, np.int64), *picked])
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Encoded(passages, self.vectors(passages), bounds, self._sentences[index], self._scales[index])


class DenseIndex:
    """The segments that count, as one; it never changes."""

    def __init__(self, folder: Path, numbers: Collection[int], earlier: DenseIndex | None = None) -> None:
        """Open segments, taking those over that an earlier index has open.

        Raises:
            SearchIndexError: one is missing or damaged.
        """
        held: dict[int, Segment] = {} if earlier is None else earlier._segments
        self._segments: dict[int, Segment] = {
            n: held[n] if n in held else Segment(folder / name(n)) for n in sorted(numbers)
        }
        self.passages = sum(len(segment.ids) for segment in self._segments.values())

    def search(self, query: Vectors, count: int) -> list[Scored]:
        """The nearest passages to a vector of length 1, [D]."""
        found = [hit for segment in self._segments.values() for hit in segment.search(query, count)]
        return sorted(found, key=lambda hit: -hit.score)[:count]

    def vectors(self, passages: Sequence[int]) -> dict[int, Vectors]:
        """Vector of each passage that has one, [D]."""
        wanted = np.unique(np.asarray(passages, dtype=np.int64))
        found: dict[int, Vectors] = {}
        for segment in self._segments.values():
            here = wanted[segment.rows(wanted) >= 0] if len(wanted) and len(segment.ids) else wanted[:0]
            if len(here):
                found.update(zip(here.tolist(), segment.vectors(here), strict=True))
        return found

    def sentences(self, passages: Sequence[int]) -> dict[int, Vectors]:
        """Vectors of the sentences of each passage that has them, [s, D]."""
        wanted = np.asarray(passages, dtype=np.int64)
        found: dict[int, Vectors] = {}
        for segment in self._segments.values():
            if len(segment.ids):
                rows = segment.rows(wanted)
                found.update(
                    {int(wanted[i]): segment.sentences(int(rows[i])) for i in np.flatnonzero(rows >= 0)}
                )
        return found

    def parts(self, numbers: Sequence[int], live: Sequence[int]) -> Encoded:
        """The live passages of some segments, to be written as one."""
        alive = np.asarray(live, dtype=np.int64)
        chosen = [self._segments[n] for n in numbers]
        return joined(
            [s.subset(s.ids[np.isin(s.ids, alive, assume_unique=True)]) for s in chosen if len(s.ids)]
        )


def name(number: int) -> str:
    """Name of a segment's folder."""
    return f"{number:08}"


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Several sets of passages as one, in the order of their numbers."""
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    lengths = np.concatenate([np.diff(part.bounds) for part in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    index = np.concatenate(
        [np.zeros(0, np.int64), *(np.arange(starts[i], starts[i] + lengths[i]) for i in order)]
    )
    return Encoded(
        ids[order],
        np.concatenate([part.passages for part in parts])[order],
        np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64),
        np.concatenate([part.sentences for part in parts])[index],
        np.concatenate([part.scales for part in parts])[index],
    )


def write(folder: Path, number: int, encoded: Encoded, threads: int = 0) -> None:
    """Write a segment; it is whole and on the disk when this returns. `threads`: 0 for every core."""
    unfinished = folder / f".{name(number)}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    graph: Any = require("usearch.index", "search").Index(
        ndim=encoded.passages.shape[1], metric="cos", dtype="f16"
    )
    graph.add(encoded.ids, encoded.passages, threads=threads)
    graph.save(str(unfinished / GRAPH))
    arrays: tuple[NDArray[Any], ...] = (encoded.ids, encoded.bounds, encoded.sentences, encoded.scales)
    for file, values in zip(FILES[1:], arrays, strict=True):
        np.save(unfinished / file, values)
    for file in FILES:
        _to_disk(unfinished / file)
    shutil.rmtree(folder / name(number), ignore_errors=True)
    unfinished.rename(folder / name(number))
    _to_disk(folder)


def tidy(folder: Path, numbers: Collection[int]) -> None:
    """Remove segments that do not count."""
    keep = {name(n) for n in numbers}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep:
            shutil.rmtree(path)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
