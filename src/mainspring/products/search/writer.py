"""The writer: the one process that changes an index, in which order, and what it mends at the start.

1. The store takes the documents in one transaction: from here on they are acknowledged.
2. The lexical index takes them in one commit, and the store notes how far it has come.
3. Vectors follow in segments: a folder is written whole, then the store enters it.

A process that dies between two steps leaves a store that is ahead; whoever writes or reads next carries on
from there, and every step may be done twice.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from mainspring.errors import DiskError, SearchIndexError
from mainspring.planner.units import amount
from mainspring.products.search import dense
from mainspring.products.search.analysis import base_language, detect
from mainspring.products.search.documents import Document, Span
from mainspring.products.search.encoder import Encoder
from mainspring.products.search.lexical import LexicalIndex
from mainspring.products.search.passages import cut
from mainspring.products.search.store import Store, StoredPassage
from mainspring.products.search.tantivy_index import segment_files

T = TypeVar("T")

STORE, LEXICAL, DENSE, LOCK = "store.sqlite", "lexical", "dense", "writer.lock"
"""What an index's folder holds."""
_SEGMENT_PASSAGES = 4096
_SEGMENT_SECONDS = 60.0
"""A segment is closed after so long, so that a process that is killed loses no more work than that."""
_ENCODE_AT_ONCE = 64
_NO_ROOM = 64 << 10
"""Bytes free below which a failure is put down to a full disk."""
_SEGMENTS_A_TIER = 8


class Changed:
    """Counts of what a commit did."""

    def __init__(self) -> None:
        self.added = self.replaced = self.unchanged = self.deleted = self.passages = 0


class Lock:
    """The right to write; held until `close`, or until the process ends, however it does."""

    def __init__(self, folder: Path) -> None:
        """Take it.

        Raises:
            SearchIndexError: another process has it; the message names it.
        """
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        self._close = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            self._close()
            raise SearchIndexError(
                f"{folder}: another process (number {holder}) is writing to this index, and only one can; "
                "wait for it or stop it. Searching goes on meanwhile"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode("ascii"))

    def close(self) -> None:
        """Give it back."""
        self._close()


class Writer:
    """Changes an index. Use it as a context, or `close` it."""

    def __init__(self, folder: Path, store: Store, lexical: LexicalIndex, language: str) -> None:
        """Take the lock and carry on where a process died.

        Raises:
            SearchIndexError: another process is writing.
            DiskError: the disk is full.
        """
        self.folder, self._store, self._lexical, self._language = folder, store, lexical, language
        self._lock = Lock(folder)
        try:
            dense.tidy(folder / DENSE, list(store.segments()))
            self.catch_up()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write."""
        self._lock.close()

    def commit(
        self,
        documents: Iterable[tuple[str | None, Document]] = (),
        *,
        deleted: Iterable[str] = (),
        sources: Mapping[str, bytes] | None = None,
        gone: Sequence[str] = (),
    ) -> Changed:
        """Add, replace and delete documents; they are kept and found once this returns.

        Args:
            documents: each with the name of its source, where it has one. One that is there already, word
                for word, is left as it is; of several with one key the last counts.
            deleted: keys of documents to delete; unknown ones are passed over.
            sources: digest of each source that these are all the documents of: others of it are deleted.
            gone: sources to delete with all their documents.

        Raises:
            DiskError: the disk is full; nothing of this commit was kept, unless the message says so.
        """
        changed = Changed()
        store = self._store
        given = {document.key: (source, document) for source, document in documents}
        again = store.lexical_generation < store.generation
        with _told(self.folder, "nothing of this commit was kept"), _transaction(store):
            generation = store.generation + 1
            dead: set[int] = set()
            present = _in_parts(list(given), store.hashes)
            for key, (source, document) in given.items():
                if key in present:
                    number, digest = present[key]
                    if digest == document.hash:
                        changed.unchanged += 1
                        continue
                    dead.add(number)
                    store.mark_deleted([number], generation)
                    changed.replaced += 1
                else:
                    changed.added += 1
                passages = cut(document.text) or cut(document.title)
                changed.passages += len(passages)
                language = document.language or detect(document.text or document.title) or self._language
                store.insert(document, base_language(language), source, passages, generation)
            for name in sources or ():
                dead.update(n for key, n in store.of_source(name).items() if key not in given)
            dead.update(store.remove_sources(gone))
            dead.update(n for n, _ in _in_parts(list(deleted), store.hashes).values())
            store.mark_deleted(dead, generation)
            changed.deleted = len(dead) - changed.replaced
            for name, digest in (sources or {}).items():
                store.set_source(name, digest)
            store.purge(store.lexical_generation - 1)
            if dead or changed.added:
                store.set_meta("generation", str(generation))
        self.catch_up(again=again)
        return changed

    def catch_up(self, *, again: bool = True) -> None:
        """Bring the lexical index to where the store is.

        Args:
            again: some of it may be there already.

        Raises:
            DiskError: the disk is full.
        """
        store = self._store
        since, generation = store.lexical_generation, store.generation
        if since == generation:
            return
        kept = "the documents are kept, and will be found once there is room and the index is opened again"
        with _told(self.folder, kept):
            self._lexical.write(store.deleted_since(since), store.added_since(since), again=again)
            with _transaction(store):
                store.set_meta("lexical_generation", str(generation))
                self._note_files()

    def encode(self, encoder: Encoder, progress: Callable[[int], None] | None = None) -> int:
        """Give vectors to the passages that have none; what is done stays done if this is interrupted.

        Args:
            encoder: what turns text into vectors.
            progress: told the number of passages encoded so far.

        Returns:
            Number of passages encoded.
        """
        done = 0
        while pending := self._store.without_vectors(_SEGMENT_PASSAGES):
            parts: list[dense.Encoded] = []
            began = time.monotonic()
            try:
                for at in range(0, len(pending), _ENCODE_AT_ONCE):
                    parts.append(self._encoded(encoder, pending[at : at + _ENCODE_AT_ONCE]))
                    done += len(parts[-1].ids)
                    if progress is not None:
                        progress(done)
                    if time.monotonic() - began > _SEGMENT_SECONDS:
                        break
            finally:  # an interruption keeps what was encoded
                if parts:
                    self._add_segment(dense.joined(parts), ())
            self._merge()
        return done

    def drop_segments(self, numbers: Sequence[int]) -> None:
        """Strike out segments of vectors; `encode` makes them anew."""
        with _transaction(self._store):
            self._store.remove_segments(numbers)
            self._note_files()
        dense.tidy(self.folder / DENSE, list(self._store.segments()))

    def _encoded(self, encoder: Encoder, passages: Sequence[StoredPassage]) -> dense.Encoded:
        titles = {n: d.title for n, d in self._store.documents([p.document for p in passages]).items()}
        texts: list[str] = []
        spans: list[list[Span]] = []
        for passage in passages:
            title = titles.get(passage.document, "")
            before = "" if not title or passage.text.startswith(title) else f"{title}\n"
            texts.append(before + passage.text)
            shift = len(before)
            spans.append([Span(s.start + shift, s.stop + shift) for s in passage.sentences])
        found = encoder.encode_parts(texts, spans)
        sentences, scales = dense.quantised(np.concatenate([f.parts for f in found]))
        bounds = np.concatenate([[0], np.cumsum([len(f.parts) for f in found])]).astype(np.int64)
        ids = np.asarray([p.id for p in passages], dtype=np.int64)
        return dense.Encoded(ids, np.stack([f.whole for f in found]), bounds, sentences, scales)

    def _add_segment(self, encoded: dense.Encoded, replaced: Sequence[int]) -> None:
        store = self._store
        with _told(self.folder, "vectors that were finished are kept"):
            dense.write(self.folder / DENSE, store.next_segment(), encoded)
            with _transaction(store):
                store.add_segment(encoded.ids.tolist(), replaced)
                self._note_files()
        dense.tidy(self.folder / DENSE, list(store.segments()))

    def _merge(self) -> None:
        """Join segments of like size, so that there are few, each written again a few times at most."""
        while True:
            tiers: dict[int, list[int]] = {}
            for number, size in self._store.segments().items():
                tiers.setdefault((max(1, size).bit_length() - 1) // 3, []).append(number)
            full = next((numbers for numbers in tiers.values() if len(numbers) >= _SEGMENTS_A_TIER), None)
            if full is None:
                return
            index = dense.DenseIndex(self.folder / DENSE, full)
            live = self._store.live_in(full)
            if live:
                self._add_segment(index.parts(full, live), full)
            else:
                self.drop_segments(full)

    def _note_files(self) -> None:
        """Enter size and checksum of every file of the derived indexes; files never change once written."""
        known = self._store.files()
        names = [f"{LEXICAL}/{file}" for file in segment_files(self.folder / LEXICAL)]
        for number in self._store.segments():
            names += [f"{DENSE}/{dense.name(number)}/{file}" for file in dense.FILES]
        self._store.set_files({name: known.get(name) or measured(self.folder / name) for name in names})


def measured(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file."""
    crc = size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
            size += len(block)
    return size, crc


def _in_parts(keys: Sequence[str], look: Callable[[Sequence[str]], dict[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for at in range(0, len(keys), 1000):
        found |= look(keys[at : at + 1000])
    return found


@contextlib.contextmanager
def _transaction(store: Store) -> Iterator[None]:
    connection = store.connection
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk may have ended the transaction already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextlib.contextmanager
def _told(folder: Path, kept: str) -> Iterator[None]:
    """Full disks and damaged databases in our words.

    Raises:
        DiskError: the disk is full or fails.
        SearchIndexError: the store is damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "disk I/O" in str(error):
            raise _full(folder, kept, error) from error
        raise
    except sqlite3.DatabaseError as error:
        raise SearchIndexError(
            f"{folder / STORE}: the document store is damaged ({error}); "
            "index the sources anew into another folder"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        # The engines do not all pass the system's reason on.
        full = full or shutil.disk_usage(folder).free < _NO_ROOM
        if full or "No space left" in str(error) or "os error 28" in str(error):
            raise _full(folder, kept, error) from error
        raise


def _full(folder: Path, kept: str, error: Exception) -> DiskError:
    free = amount(shutil.disk_usage(folder).free, "B")
    return DiskError(
        f"{folder}: the disk is full ({free} free: {error}); {kept}. Make room and run this again"
    )
