"""Whether an index's files are as they were written, which one is not, and mending what can be.

The lexical index is built anew from the store, vectors by the encoder; the store itself from the sources.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import NamedTuple

from mainspring.errors import SearchIndexError, few
from mainspring.products.search.store import Store
from mainspring.products.search.tantivy_index import TantivyIndex, segment_files
from mainspring.products.search.writer import DENSE, LEXICAL, STORE, Lock, Writer, measured

_TRIES, _PAUSE = 3, 0.3


class Damage(NamedTuple):
    """A file that is not as it was written."""

    file: str
    """Its name within the index's folder."""
    reason: str
    """What is wrong with it."""

    @property
    def part(self) -> str:
        """The part of the index that it belongs to."""
        return self.file.split("/")[0]


def damages(folder: Path, store: Store) -> list[Damage]:
    """Every file of an index that is missing, or of another size or checksum than when it was written."""
    for attempt in range(_TRIES):
        found = _look(folder, store)
        # A writer at work replaces files under our eyes: look again before crying.
        if not found or attempt == _TRIES - 1:
            break
        time.sleep(_PAUSE)
    return found


def remedy(folder: Path, found: list[Damage]) -> str:
    """What to tell of damaged files."""
    named = f"{folder}: damaged: " + few([f"{d.file} ({d.reason})" for d in found])
    if any(d.part == STORE for d in found):
        return f"{named}; the documents themselves are lost: index their sources into a new folder"
    return f"{named}; mend it from the stored documents: mainspring search check {folder} --repair"


def repair(folder: Path) -> list[Damage]:
    """Build anew what is damaged; what it was. Vectors are made by the next `Index.encode`.

    Raises:
        SearchIndexError: the store is damaged, or another process is writing.
    """
    store = Store(folder / STORE)
    found = damages(folder, store)
    if any(d.part == STORE for d in found):
        raise SearchIndexError(remedy(folder, found))
    language = store.meta("language") or "en"
    if any(d.part == LEXICAL for d in found):
        lock = Lock(folder)
        shutil.rmtree(folder / LEXICAL, ignore_errors=True)
        store.set_meta("lexical_generation", "0")
        if store.generation == 0:
            store.set_files({})
        lock.close()
    segments = sorted({int(d.file.split("/")[1]) for d in found if d.part == DENSE})
    with Writer(folder, store, TantivyIndex(folder / LEXICAL, language), language) as writer:
        writer.drop_segments(segments)
    store.close()
    return found


def _look(folder: Path, store: Store) -> list[Damage]:
    wrong = store.damage()
    if wrong is not None:
        return [Damage(STORE, wrong)]
    table = store.files()
    try:
        held = (
            {name.split(".")[0] for name in segment_files(folder / LEXICAL)}
            if store.lexical_generation
            else set()
        )
    except SearchIndexError as error:
        return [Damage(f"{LEXICAL}/meta.json", str(error))]
    found: list[Damage] = []
    for name, (size, crc) in table.items():
        path = folder / name
        if name.startswith(f"{LEXICAL}/") and path.name.split(".")[0] not in held and not path.exists():
            continue  # merged into another segment by a writer that died before it said so
        if not path.is_file():
            found.append(Damage(name, "missing"))
            continue
        actual = path.stat().st_size
        if actual != size:
            found.append(Damage(name, f"{actual} bytes, written with {size}"))
        elif measured(path)[1] != crc:
            found.append(Damage(name, "checksum differs from when it was written"))
    return found
