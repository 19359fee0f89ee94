"""Opening what a path stands for: files, directories, glob patterns, and what gzip and zip hold, one stream
at a time."""

from __future__ import annotations

import glob
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from mainspring.data.documents import ReadReport
from mainspring.errors import DataError

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
"""Format by the end of a file's name; anything else is text."""

DAMAGE = (
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    OSError,
    NotImplementedError,
    RuntimeError,
)
"""What the standard library raises on a damaged, unsupported or encrypted archive, or an unreadable file."""


class Opened(NamedTuple):
    """A stream of bytes with the name that reports call it by."""

    name: str
    """Path, with `!member` inside a zip."""
    format: str
    """text, jsonl, csv or tsv, by the name."""
    stream: IO[bytes]
    """Open for reading."""


def expand(path: str) -> list[Path]:
    """Files that a path stands for, sorted: itself, all below a directory (dot files left out), or a
    pattern's.

    Raises:
        DataError: there are none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        inside = (
            p for p in place.rglob("*") if not any(q.startswith(".") for q in p.relative_to(place).parts)
        )
        found = sorted(p for p in inside if p.is_file())
        if not found:
            raise DataError(f"{path}: the directory holds no files")
        return found
    if glob.has_magic(path):
        names = glob.glob(str(place), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
        found = sorted(p for p in map(Path, names) if p.is_file())
        if not found:
            raise DataError(f"{path}: no file matches the pattern (working directory {Path.cwd()})")
        return found
    raise DataError(f"{path}: no such file or directory (working directory {Path.cwd()})")


def open_streams(path: Path, report: ReadReport) -> Iterator[Opened]:
    """Streams of a file: one, or one for each member of a zip in name order. What cannot be opened is
    reported."""
    if path.suffix.lower() == ".zip":
        yield from _members(path, report)
        return
    try:
        raw = path.open("rb")
    except OSError as error:
        report.fault(str(path), None, "cannot be opened", error.strerror or str(error))
        return
    with raw:
        report.files += 1
        yield _unwrapped(str(path), raw)


def _members(path: Path, report: ReadReport) -> Iterator[Opened]:
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        report.fault(str(path), None, "not a readable zip", str(error))
        return
    with archive:
        for info in sorted(archive.infolist(), key=lambda member: member.filename):
            if info.is_dir() or Path(info.filename).name.startswith("."):
                continue
            name = f"{path}!{info.filename}"
            try:
                stream = archive.open(info)
            except DAMAGE as error:
                report.fault(name, None, "cannot be opened", str(error))
                continue
            with stream:
                report.files += 1
                yield _unwrapped(name, stream)


def _unwrapped(name: str, stream: IO[bytes]) -> Opened:
    end = Path(name)
    if end.suffix.lower() == ".gz":
        stream, end = gzip.GzipFile(fileobj=stream), end.with_suffix("")  # type: ignore[assignment]
    return Opened(name, FORMATS.get(end.suffix.lower(), "text"), stream)
