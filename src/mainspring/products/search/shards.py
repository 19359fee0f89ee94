"""An index in shards: a query goes to all of them, and what they find is scored as if it were one index.

Three rounds. Each shard tells the statistics of the query's terms; each finds passages, scored by the sum of
them all, so that scores compare; each gives documents, passages and vectors of those of its candidates that
are among the first of all. What follows (fusion, ranking, captions, answers) is what one index does, on the
same data: results are the same, up to rounding and to the neighbours that graphs of vectors miss.

A document lies in the shard that the digest of its key says. A shard that does not answer is left out of a
search, whose results name it in `Results.lost`; it is asked again by the next one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import SearchIndexError, UsageError
from mainspring.products.search import filters as conditions
from mainspring.products.search.bm25 import Statistics, summed
from mainspring.products.search.documents import Document
from mainspring.products.search.encoder import DEFAULT
from mainspring.products.search.equipment import Models
from mainspring.products.search.index import Index
from mainspring.products.search.rank import Candidate
from mainspring.products.search.recall import Lists, Recalled, depth_of, fused, seen
from mainspring.products.search.results import Results
from mainspring.products.search.searching import Asked, ask, languages_of, results
from mainspring.products.search.store import StoredDocument, StoredPassage

T = TypeVar("T")
_AT_ONCE = 1000


class Told(NamedTuple):
    """What a shard says before it searches."""

    language: str
    """The index's."""
    languages: frozenset[str]
    """Of its documents."""


class Wanted(NamedTuple):
    """What shards are asked to find."""

    query: str
    vector: NDArray[np.float32] | None
    languages: Sequence[str]
    condition: conditions.Filter | None
    passages: int
    """Of each of its two indexes."""
    marks: bool


class Shard(Protocol):
    """What a search asks of a shard; each call may take place on another machine."""

    def tell(self) -> Told:
        """Its languages."""
        ...

    def statistics(self, query: str, languages: Collection[str]) -> Statistics:
        """Of the query's terms."""
        ...

    def lists(self, wanted: Wanted, statistics: Statistics) -> Lists:
        """What its indexes find, scored by these statistics."""
        ...

    def looked_up(self, candidates: Sequence[Candidate], vector: NDArray[np.float32] | None) -> Recalled:
        """What is known of its candidates."""
        ...


class IndexShard:
    """A whole index in a folder, as a shard."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def tell(self) -> Told:
        """Its languages."""
        return Told(self.index.language, self.index.snapshot().languages)

    def statistics(self, query: str, languages: Collection[str]) -> Statistics:
        """Of the query's terms."""
        return self.index.snapshot().lexical.statistics(query, languages)

    def lists(self, wanted: Wanted, statistics: Statistics) -> Lists:
        """What its indexes find, scored by these statistics."""
        snapshot = self.index.snapshot()
        return self.index.recall(snapshot).lists(
            wanted.query,
            wanted.vector,
            languages=wanted.languages,
            within=self.index.matching(wanted.condition, snapshot),
            wanted=wanted.passages,
            marks=wanted.marks,
            statistics=statistics,
        )

    def looked_up(self, candidates: Sequence[Candidate], vector: NDArray[np.float32] | None) -> Recalled:
        """What is known of its candidates."""
        return self.index.recall(self.index.snapshot()).looked_up(candidates, vector, len(candidates))


class LostShardError(SearchIndexError):
    """A shard does not answer."""


def shard_of(key: str, count: int) -> int:
    """The shard that a document of this key lies in, of so many.

    >>> [shard_of(key, 4) for key in ("watch", "river", "feder")]
    [1, 3, 3]
    """
    return (
        int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()) % count
    )


def split(index: Index, to: str | Path, count: int, *, encode: bool = True) -> list[Path]:
    """Deal the documents of an index out to shards, each an index of its own with the same encoder.

    Args:
        index: which; it stays as it is.
        to: folder of the shards; made where absent.
        count: of shards.
        encode: also give them vectors, anew.

    Returns:
        The shards' folders, in order.

    Raises:
        UsageError: there is to be no shard.
        SearchIndexError: an index is there already.
    """
    if count < 1:
        raise UsageError(f"{count} shards: should be 1 or more")
    recorded = index.store.meta("encoder") or None
    by_name = recorded is None or recorded == DEFAULT or Path(recorded).is_dir()
    folders = [Path(to) / f"shard-{number:03}" for number in range(count)]
    for number, folder in enumerate(folders):
        keys = [key for key in index.store.keys() if shard_of(key, count) == number]  # noqa: SIM118
        given = recorded if by_name else index.encoder
        with Index.create(folder, language=index.language, encoder=given) as shard:
            for at in range(0, len(keys), _AT_ONCE):
                shard.add([_document(index, key) for key in keys[at : at + _AT_ONCE]], encode=False)
            if encode:
                shard.encode()
            curve = index.store.meta("ranker")
            if curve is not None:
                shard.store.set_meta("ranker", curve)
    return folders


def folders_of(place: str | Path) -> list[Path]:
    """The folders of shards that `split` made in a folder, in order; none where there are none."""
    return sorted(Path(place).glob("shard-[0-9][0-9][0-9]"))


def _document(index: Index, key: str) -> Document:
    found = index.store.find(key)
    if found is None:
        raise SearchIndexError(
            f"{index.folder}: document {key!r} was deleted while it was dealt out; try again"
        )
    text = index.store.text(found.id)
    return Document(key, text, found.title, found.url, found.language, found.fields)


class ShardedIndex:
    """Shards that are searched as one index."""

    def __init__(self, shards: Mapping[str, Shard], models: Models) -> None:
        """Search these shards.

        Args:
            shards: by name, as `Results.lost` calls them. Whichever is to be called lost raises
                `LostShardError`.
            models: encoder (the shards' own kind), ranker, answerer, heads, as `Index.models` gives them.
        """
        assert shards, "a search needs a shard"
        self._shards, self._models = dict(shards), models
        self._numbers = {name: _Numbers(number, len(shards)) for number, name in enumerate(shards)}
        self._pool = ThreadPoolExecutor(len(shards), thread_name_prefix="shard")

    def close(self) -> None:
        """End the threads that ask; the shards stay."""
        self._pool.shutdown()

    def search(
        self,
        query: str,
        *,
        top: int = 10,
        skip: int = 0,
        captions: bool = True,
        answers: int = 0,
        filters: conditions.Given = None,
        semantic: bool = True,
    ) -> Results:
        """Find documents in all shards; arguments as for `Index.search`.

        Returns:
            Results, which name the shards that did not answer (`lost`).

        Raises:
            UsageError: a number is out of its range, or a filter is impossible.
            LostShardError: no shard answers.
        """
        started = time.perf_counter()
        models = self._models
        if not semantic:
            models = Models(None, models.ranker, models.answerer, None, None)
        condition = conditions.read(filters)
        asking = _Asking(self._shards, self._pool)
        told = asking.each(lambda name, shard: shard.tell())
        present = frozenset[str]().union(*(one.languages for one in told.values()))
        asked = ask(
            query,
            models,
            languages_of(query, next(iter(told.values())).language, present),
            top=top,
            skip=skip,
            captions=captions,
            answers=answers,
            semantic=semantic,
            started=started,
        )
        found = self._recall(asked, condition, asking)
        return results(asked, found, models, lost=asking.lost)

    def _recall(self, asked: Asked, condition: conditions.Filter | None, asking: _Asking) -> Recalled:
        vector, wanted = asked.vector, depth_of(asked.depth)
        known = asking.each(lambda name, shard: shard.statistics(asked.query, asked.languages))
        request = Wanted(asked.query, vector, asked.languages, condition, wanted, asked.marks)
        statistics = summed(known.values())
        lists = Lists((), ())
        for name, part in asking.each(lambda name, shard: shard.lists(request, statistics)).items():
            lists = lists.merged(self._numbers[name].outside_lists(part), wanted)
        order = fused(lists, semantic=vector is not None)
        first = seen(order, asked.depth, semantic=vector is not None)
        held = {name: numbers.inside(first) for name, numbers in self._numbers.items()}
        parts = asking.each(
            lambda name, shard: shard.looked_up(held[name], vector), {name for name in held if held[name]}
        )
        return _joined(
            first, [self._numbers[n].outside(part) for n, part in parts.items()], vector, len(order)
        )


@contextmanager
def searched(
    place: str | Path, *, heads: str | Path | None = None, precision: str = "fp32"
) -> Iterator[Index | ShardedIndex]:
    """What is searched at a place: an index, or the shards that `split` made, all in this process.

    Args:
        place: folder of an index, or of shards.
        heads, precision: as for `Index.open`.

    Raises:
        SearchIndexError: there is none, or a file is damaged.
    """
    folders = folders_of(place)
    with ExitStack() as stack:
        if not folders:
            yield stack.enter_context(Index.open(place, heads=heads, precision=precision))
            return
        indexes = [
            stack.enter_context(Index.open(folder, heads=heads, precision=precision)) for folder in folders
        ]
        shards = {folder.name: IndexShard(index) for folder, index in zip(folders, indexes, strict=True)}
        made = ShardedIndex(shards, indexes[0].models())
        stack.callback(made.close)
        yield made


class _Numbers:
    """Numbers of one shard's documents and passages, and those that they have among all shards."""

    def __init__(self, shard: int, shards: int) -> None:
        self._shard, self._shards = shard, shards

    def outside_lists(self, lists: Lists) -> Lists:
        words, meanings = (
            [hit._replace(passage=self._out(hit.passage), document=self._out(hit.document)) for hit in found]
            for found in lists
        )
        return Lists(words, meanings)

    def inside(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those candidates of all that are this shard's, as it numbers them."""
        return [
            c._replace(
                document=c.document // self._shards, passages=tuple(p // self._shards for p in c.passages)
            )
            for c in candidates
            if c.document % self._shards == self._shard
        ]

    def outside(self, found: Recalled) -> Recalled:
        out = self._out
        return Recalled(
            (),
            {out(n): d._replace(id=out(n)) for n, d in found.documents.items()},
            {out(n): p._replace(id=out(n), document=out(p.document)) for n, p in found.passages.items()},
            found.query,
            {out(n): v for n, v in found.vectors.items()},
            {out(n): v for n, v in found.sentence_vectors.items()},
            found.count,
        )

    def _out(self, number: int) -> int:
        return number * self._shards + self._shard


class _Asking:
    """Rounds of one search; a shard that is lost in one is left out of the next."""

    def __init__(self, shards: Mapping[str, Shard], pool: ThreadPoolExecutor) -> None:
        self._shards, self._pool = shards, pool
        self.lost: list[str] = []

    def each(self, work: Callable[[str, Shard], T], among: Collection[str] | None = None) -> dict[str, T]:
        """Ask shards side by side; what each that answers says.

        Raises:
            LostShardError: none of all answers.
        """
        names = [n for n in self._shards if n not in self.lost and (among is None or n in among)]
        under_way = {name: self._pool.submit(work, name, self._shards[name]) for name in names}
        said: dict[str, T] = {}
        reason = ""
        for name, future in under_way.items():
            try:
                said[name] = future.result()
            except LostShardError as error:
                self.lost.append(name)
                reason = str(error)
        if len(self.lost) == len(self._shards):
            raise LostShardError(f"none of {len(self._shards)} shards answers; the last said: {reason}")
        return said


def _joined(
    order: Sequence[Candidate], parts: Sequence[Recalled], vector: NDArray[np.float32] | None, count: int
) -> Recalled:
    """What the shards know of the candidates, in their order."""
    documents: dict[int, StoredDocument] = {}
    passages: dict[int, StoredPassage] = {}
    vectors: dict[int, NDArray[np.float32]] = {}
    sentences: dict[int, NDArray[np.float32]] = {}
    for part in parts:
        documents |= part.documents
        passages |= part.passages
        vectors |= part.vectors
        sentences |= part.sentence_vectors
    held = [c for c in order if c.document in documents and c.passages[0] in passages]
    return Recalled(held, documents, passages, vector, vectors, sentences, count)
