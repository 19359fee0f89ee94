"""Index: documents in a folder that are found by words and by meaning."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Self

from mainspring.errors import SearchIndexError, UsageError
from mainspring.infer.precision import checked
from mainspring.products.search import filters as conditions
from mainspring.products.search.analysis import base_language
from mainspring.products.search.answers import Answerer
from mainspring.products.search.check import Damage, damages, remedy
from mainspring.products.search.dense import DenseIndex
from mainspring.products.search.documents import Document
from mainspring.products.search.encoder import DEFAULT, Encoder
from mainspring.products.search.equipment import Equipment, Models
from mainspring.products.search.heads import Heads, RankerCurve
from mainspring.products.search.lexical import LexicalView
from mainspring.products.search.rank import Ranker
from mainspring.products.search.recall import Recall
from mainspring.products.search.results import Results
from mainspring.products.search.searching import ask, languages_of, results
from mainspring.products.search.store import Store
from mainspring.products.search.tantivy_index import TantivyIndex
from mainspring.products.search.writer import DENSE, LEXICAL, STORE, Changed, Writer


class Snapshot(NamedTuple):
    """An index at one moment."""

    generation: int
    """The commit that the lexical index has."""
    segments: tuple[int, ...]
    """The segments of vectors."""
    languages: frozenset[str]
    """Languages of its documents."""
    lexical: LexicalView
    dense: DenseIndex


class Index:
    """Documents in a folder. Any number of processes and threads search; one process at a time writes.

    >>> import tempfile
    >>> with Index.create(tempfile.mkdtemp() + "/i", encoder=None) as index:
    ...     _ = index.add([Document("a", "Springs store energy."), Document("b", "Rivers run to the sea.")])
    ...     index.search("stored energy").hits[0].key
    'a'
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        *,
        encoder: Encoder | None = None,
        ranker: Ranker | None = None,
        answerer: Answerer | None = None,
        heads: Path | None = None,
        precision: str = "fp32",
    ) -> None:
        """Use `open` or `create`."""
        self.folder, self.store = folder, store
        self.language = store.meta("language") or "en"
        self._equipment = Equipment(
            folder, store, encoder=encoder, ranker=ranker, answerer=answerer, heads=heads, precision=precision
        )
        self._lexical = TantivyIndex(folder / LEXICAL, self.language)
        self._writer: Writer | None = None
        self._changing = threading.RLock()
        self._loading = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._fields: tuple[int, list[str]] | None = None

    @classmethod
    def create(
        cls, folder: str | Path, *, language: str = "en", encoder: str | Path | Encoder | None = DEFAULT
    ) -> Self:
        """Make an empty index.

        Args:
            folder: where; made where absent.
            language: of most documents, as a BCP 47 tag.
            encoder: the default one by its name, a model's folder, an encoder of your own, or None to search
                by words alone.

        Raises:
            SearchIndexError: there is an index already.
        """
        place = Path(folder)
        if (place / STORE).exists():
            raise SearchIndexError(f"{place}: an index is here already; open it, or choose another folder")
        named = encoder is None or isinstance(encoder, str | Path)
        recorded = str(encoder or "") if named else encoder.name  # type: ignore[union-attr]
        if named and encoder not in (None, DEFAULT):
            recorded = str(Path(recorded).resolve())
            if not Path(recorded).is_dir():
                raise UsageError(
                    f"encoder {str(encoder)!r}: no such folder; give one with a model, {DEFAULT!r} or none"
                )
        place.mkdir(parents=True, exist_ok=True)
        store = Store.create(place / STORE, {"language": base_language(language), "encoder": recorded})
        return cls(place, store, encoder=None if named else encoder)  # type: ignore[arg-type]

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        encoder: Encoder | None = None,
        ranker: Ranker | None = None,
        answerer: Answerer | None = None,
        heads: str | Path | None = None,
        precision: str = "fp32",
        verify: bool = True,
    ) -> Self:
        """Open an index.

        Args:
            folder: where it is.
            encoder: in place of the one it was made with, whose vectors it must give.
            ranker: in place of the heads' way to compare vectors.
            answerer: what answers questions, in place of the heads.
            heads: folder of heads trained over its encoder (`mainspring search train`), in place of those
                that the package has for the default one.
            precision: what its own encoder reads in (`infer.precision`): int8 answers sooner.
            verify: check sizes and checksums of all files.

        Raises:
            SearchIndexError: there is none, or a file is damaged; the message names it and the remedy.
        """
        place = Path(folder)
        store = Store(place / STORE)
        if verify:
            found = damages(place, store)
            if found:
                store.close()
                raise SearchIndexError(remedy(place, found))
        folder_of_heads = None if heads is None else Path(heads)
        index = cls(
            place,
            store,
            encoder=encoder,
            ranker=ranker,
            answerer=answerer,
            heads=folder_of_heads,
            precision=checked(precision),
        )
        try:
            index._catch_up()
            if heads is not None:
                _ = index.encoder  # heads that do not fit are refused here
        except BaseException:
            index.close()
            raise
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write, and close the files."""
        with self._changing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self.store.close()

    # Changing

    @property
    def writer(self) -> Writer:
        """The right to change this index; taken when first needed, held until `close`.

        Raises:
            SearchIndexError: another process has it.
        """
        with self._changing:
            if self._writer is None:
                self._writer = Writer(self.folder, self.store, self._lexical, self.language)
            return self._writer

    def add(self, documents: Iterable[Document], *, encode: bool = True) -> Changed:
        """Add documents, replacing those of the same keys; they are kept and found once this returns.

        Args:
            documents: what to add.
            encode: also give vectors to what has none (else `encode` does later).

        Raises:
            SearchIndexError: another process is writing.
            DiskError: the disk is full.
        """
        with self._changing:
            changed = self.writer.commit((None, document) for document in documents)
            if encode:
                self.encode()
        return changed

    def delete(self, keys: Iterable[str]) -> int:
        """Delete documents by key; returns how many there were."""
        return self.change((), keys).deleted

    def change(self, documents: Iterable[Document], deleted: Iterable[str]) -> Changed:
        """Add some documents and delete others, by key, in one commit; arguments and errors as for `add`."""
        with self._changing:
            changed = self.writer.commit(((None, document) for document in documents), deleted=deleted)
            self.encode()
        return changed

    def encode(self, progress: Callable[[int], None] | None = None) -> int:
        """Give vectors to the passages that have none; how many. Nothing where there is no encoder."""
        encoder = self.encoder
        if encoder is None:
            return 0
        with self._changing:
            return self.writer.encode(encoder, progress)

    # Reading

    @property
    def encoder(self) -> Encoder | None:
        """What turns text into vectors; None where there is none (`missing` says why).

        Raises:
            UsageError: an encoder of another kind was given than the index was made with.
        """
        return self._equipment.encoder

    @property
    def missing(self) -> str | None:
        """What semantic search lacks here, in words."""
        return self._equipment.models().missing

    @property
    def heads(self) -> Heads | None:
        """What was trained over the encoder; None where nothing was.

        Raises:
            UsageError: heads were given that stand on another encoder.
        """
        return self._equipment.heads

    @property
    def ranker(self) -> Ranker:
        """What ranks the first 50: the one given, else comparing vectors by `curve`."""
        return self._equipment.models().ranker

    @ranker.setter
    def ranker(self, ranker: Ranker) -> None:
        self._equipment.given_ranker = ranker

    @property
    def curve(self) -> RankerCurve:
        """The ranker's curve: the one fitted to this index, else the heads', else one set by hand."""
        return self._equipment.curve

    def set_curve(self, curve: RankerCurve) -> None:
        """Keep a curve in the index (`fit.fitted` makes one)."""
        self.store.set_meta("ranker", json.dumps(curve.model_dump()))

    @property
    def answerer(self) -> Answerer | None:
        """What answers questions: the one given, else the heads, else nothing."""
        return self._equipment.models().answerer

    @answerer.setter
    def answerer(self, answerer: Answerer | None) -> None:
        self._equipment.given_answerer = answerer

    def models(self) -> Models:
        """Encoder, ranker, answerer and heads, loaded."""
        return self._equipment.models()

    def warm(self) -> None:
        """Load what the first search would load, and search once, so that no person waits for it."""
        self.search("warm up", top=1)

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
        """Find documents.

        Args:
            query: words or a question; `"a phrase"`, `+must`, `-must not`. Nothing in it is an error.
            top: documents to return.
            skip: documents to leave out at the start.
            captions: say of each why it was found.
            answers: answers to return where the query is a question.
            filters: field and value (or values) that documents must have, or a tree of `filters`.
            semantic: rank by meaning; False: by words alone.

        Raises:
            UsageError: a number is out of its range, or a filter is impossible.
        """
        started = time.perf_counter()
        models = self.models() if semantic else self._equipment.by_words()
        snapshot = self.snapshot()
        asked = ask(
            query,
            models,
            self.languages_of(query),
            top=top,
            skip=skip,
            captions=captions,
            answers=answers,
            semantic=semantic,
            started=started,
        )
        found = self.recall(snapshot).find(
            query,
            asked.vector,
            languages=asked.languages,
            within=self.matching(conditions.read(filters), snapshot),
            depth=asked.depth,
            marks=asked.marks,
        )
        return results(asked, found, models)

    def recall(self, snapshot: Snapshot) -> Recall:
        """Finds candidates in the index as it was at a moment."""
        return Recall(self.store, snapshot.lexical, snapshot.dense, snapshot.generation)

    def matching(self, condition: conditions.Filter | None, snapshot: Snapshot) -> list[int] | None:
        """Numbers of the documents that a condition selects; None: of all."""
        if condition is None:
            return None
        return self.store.matching(*conditions.sql(condition), snapshot.generation)

    def text(self, key: str) -> str | None:
        """The whole text of a document, None where there is none of that key."""
        found = self.store.find(key)
        return None if found is None else self.store.text(found.id)

    def field_names(self) -> list[str]:
        """Names of the fields that documents have beside title and text."""
        generation = self.store.generation
        if self._fields is None or self._fields[0] != generation:
            self._fields = generation, self.store.field_names()
        return self._fields[1]

    def damages(self) -> list[Damage]:
        """What is wrong with the files; nothing, as a rule."""
        return damages(self.folder, self.store)

    def languages_of(self, query: str) -> list[str]:
        """The languages whose analysis reads a query: its own where that shows, else all of the index's."""
        return languages_of(query, self.language, self.snapshot().languages)

    def snapshot(self) -> Snapshot:
        """The index as it is now."""
        store, held = self.store, self._snapshot
        generation, segments = store.lexical_generation, tuple(store.segments())
        if held is not None and (held.generation, held.segments) == (generation, segments):
            return held
        with self._loading:
            dense = DenseIndex(self.folder / DENSE, segments, None if held is None else held.dense)
            lexical = (
                held.lexical if held is not None and held.generation == generation else self._lexical.view()
            )
            languages = frozenset(store.languages())
            self._snapshot = Snapshot(generation, segments, languages, lexical, dense)
            return self._snapshot

    def _catch_up(self) -> None:
        """Carry on where a writer died, unless one is at work."""
        if self.store.lexical_generation < self.store.generation:
            try:
                Writer(self.folder, self.store, self._lexical, self.language).close()
            except SearchIndexError:
                return  # a writer is at work, and will
