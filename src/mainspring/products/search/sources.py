"""Sources: files and folders, or the installed Python packages, as documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mainspring.data.documents import ReadReport
from mainspring.data.embedded import docstring_documents
from mainspring.data.files import expand
from mainspring.errors import DataError, MissingExtraError
from mainspring.products.search.documents import Document
from mainspring.products.search.readers import READERS, Unreadable

PACKAGES = "packages:"
"""The source that stands for the documentation of the installed Python packages."""


class Source(NamedTuple):
    """Something that documents are read from, and whose content tells whether to read it again."""

    name: str
    """A file's path, or the name of a module with `packages:` before it."""
    hash: bytes
    """Digest of its content."""
    documents: Sequence[Document] | None
    """What it holds; None where it is as it was when it was indexed."""


def of_paths(paths: Sequence[str], known: Mapping[str, bytes], report: ReadReport) -> Iterator[Source]:
    """The files that paths stand for, in order; dot files are left out.

    Args:
        paths: files, folders, patterns.
        known: digests of sources that need not be read again if theirs is the same.
        report: takes files that cannot be read, which are left out.

    Raises:
        DataError: a path stands for no file.
    """
    for path in files_of(paths):
        source = read_file(path, known, report)
        if source is not None:
            yield source


def files_of(paths: Sequence[str]) -> list[Path]:
    """The files that paths stand for, absolute, each once.

    Raises:
        DataError: a path stands for no file.
    """
    found = [file.resolve() for path in paths for file in expand(path)]
    return list(dict.fromkeys(found))


def read_file(path: Path, known: Mapping[str, bytes], report: ReadReport) -> Source | None:
    """One file; None where it cannot be read, which the report then says."""
    name = str(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        report.fault(name, None, "not a kind of file that is read", path.suffix or "no suffix")
        return None
    try:
        data = path.read_bytes()
        digest = hashlib.blake2b(data, digest_size=16).digest()
        report.files += 1
        if known.get(name) == digest:
            return Source(name, digest, None)
        documents = [d for d in reader(path, data, report) if d.text.strip() or d.title.strip()]
    except (OSError, Unreadable, DataError) as error:
        detail = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        report.fault(name, None, "cannot be read", detail)
        return None
    except MissingExtraError as error:
        report.fault(name, None, "needs an extra", str(error))
        return None
    report.documents += len(documents)
    report.bytes += len(data)
    return Source(name, digest, documents)


def of_packages(
    known: Mapping[str, bytes], report: ReadReport, *, limit_bytes: int | None = None, processes: int = 2
) -> Iterator[Source]:
    """The documentation of the standard library and the installed packages, a document a module.

    Args:
        known: digests of modules that need not be indexed again if theirs is the same.
        report: takes the counts and files that cannot be parsed.
        limit_bytes: stop after this much text.
        processes: parse in this many processes of their own; 0: in this one.
    """
    for found in docstring_documents(limit_bytes=limit_bytes, processes=processes, report=report):
        name = f"{PACKAGES}{found.id}"
        digest = hashlib.blake2b(found.text.encode("utf-8", "replace"), digest_size=16).digest()
        report.documents += 1
        report.bytes += len(found.text)
        if known.get(name) == digest:
            yield Source(name, digest, None)
            continue
        package = found.id.split(".")[0]
        document = Document(name, found.text, found.id, language="en", fields={"package": package})
        yield Source(name, digest, [document])
