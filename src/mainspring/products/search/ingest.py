"""Ingest: sources into an index, what is new or changed alone, in commits that outlast an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mainspring.data.documents import ReadReport
from mainspring.products.search.documents import Document
from mainspring.products.search.index import Index
from mainspring.products.search.sources import PACKAGES, Source, files_of, of_packages, read_file

_COMMIT_BYTES = 8 << 20
_COMMIT_SECONDS = 10.0


class Progress(NamedTuple):
    """How far an ingest has come."""

    stage: str
    """`reading`, or `encoding`."""
    done: int
    """Sources read, or passages encoded."""
    total: int | None
    """Of how many, where that is known beforehand."""
    documents: int
    """Documents read so far."""
    seconds: float
    """Since the stage began."""

    @property
    def rate(self) -> float:
        """Done per second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that remain, where the total is known."""
        return None if self.total is None or not self.rate else (self.total - self.done) / self.rate


@dataclass
class Ingested:
    """What an ingest did."""

    added: int = 0
    """Documents that are new."""
    replaced: int = 0
    """Documents that changed."""
    unchanged: int = 0
    """Sources or documents that were as they are."""
    deleted: int = 0
    """Documents that are no more."""
    passages: int = 0
    """Passages written."""
    encoded: int = 0
    """Passages that got vectors."""
    seconds: float = 0.0
    """Time it took."""
    report: ReadReport = field(default_factory=ReadReport)
    """What was read, and what could not be."""


def ingest(
    index: Index,
    paths: Sequence[str] = (),
    *,
    encode: bool = True,
    limit_bytes: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Ingested:
    """Bring an index up to date with files and folders, or with the installed packages' documentation.

    A source whose content is as it was is not read again; a file that vanished from a folder that is given
    is deleted from the index. What was committed stays if this is interrupted.

    Args:
        index: which.
        paths: files, folders, patterns; none: the documentation of the installed Python packages.
        encode: also give vectors to what has none.
        limit_bytes: of the packages' documentation, stop after this much text.
        progress: told how far it has come.

    Raises:
        DataError: a path stands for no file.
        SearchIndexError: another process is writing to the index.
        DiskError: the disk is full.
    """
    started = time.perf_counter()
    done = Ingested()
    known = index.store.sources()
    files = files_of(paths)
    batch = _Batch(index, done)
    writer = index.writer  # refused here where another process writes, before anything is read
    if paths:
        found: Iterator[Source | None] = (read_file(file, known, done.report) for file in files)
    else:
        found = of_packages(known, done.report, limit_bytes=limit_bytes)
    seen: set[str] = set()
    for number, source in enumerate(found, 1):
        if source is not None:
            seen.add(source.name)
            batch.add(source)
        if progress is not None:
            seconds = time.perf_counter() - started
            total = len(files) if paths else None
            progress(Progress("reading", number, total, done.report.documents, seconds))
    unread = {str(file) for file in files}
    batch.commit()
    if paths or limit_bytes is None:
        gone = [name for name in known if name not in seen | unread and _within(name, paths)]
        done.deleted += writer.commit(gone=gone).deleted if gone else 0
    if encode:
        _encode(index, done, progress)
    done.seconds = time.perf_counter() - started
    return done


def _encode(index: Index, done: Ingested, progress: Callable[[Progress], None] | None) -> None:
    counts = index.store.counts()
    total = counts["passages"] - counts["encoded"]
    started = time.perf_counter()

    def tell(number: int) -> None:
        if progress is not None:
            seconds = time.perf_counter() - started
            progress(Progress("encoding", number, total, done.report.documents, seconds))

    done.encoded = index.encode(tell) if total else 0


class _Batch:
    """Sources that are committed together."""

    def __init__(self, index: Index, done: Ingested) -> None:
        self._index, self._done = index, done
        self._documents: list[tuple[str | None, Document]] = []
        self._sources: dict[str, bytes] = {}
        self._bytes = 0
        self._since = time.perf_counter()

    def add(self, source: Source) -> None:
        if source.documents is None:
            self._done.unchanged += 1
            return
        self._documents += [(source.name, document) for document in source.documents]
        self._sources[source.name] = source.hash
        self._bytes += sum(len(document.text) for document in source.documents)
        if self._bytes >= _COMMIT_BYTES or time.perf_counter() - self._since > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        if self._sources:
            changed = self._index.writer.commit(self._documents, sources=self._sources)
            done = self._done
            done.added += changed.added
            done.replaced += changed.replaced
            done.unchanged += changed.unchanged
            done.deleted += changed.deleted
            done.passages += changed.passages
        self._documents, self._sources, self._bytes = [], {}, 0
        self._since = time.perf_counter()


def _within(name: str, paths: Sequence[str]) -> bool:
    """Whether a source lies in what was given, so that its absence there means that it is no more."""
    if not paths:
        return name.startswith(PACKAGES)
    folders = [Path(path).expanduser().resolve() for path in paths if Path(path).expanduser().is_dir()]
    return any(Path(name).is_relative_to(folder) for folder in folders)
