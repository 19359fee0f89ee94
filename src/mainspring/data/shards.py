"""Shards on disk: token files and document offsets, named by their content and written so that a crash leaves
no half.

A build is a directory:

    manifest.json            what follows, with sizes and checksums; written last
    tokenizer.json           (and special_tokens_map.json)
    shards/<name>.bin        token ids, little-endian uint16 or uint32
    shards/<name>.idx        offset of every document in the .bin, in tokens, int64, with the end as last
    entry

<name> is the first 32 hexadecimal digits of the SHA-256 of the .bin followed by the .idx. A shard holds
segments of several streams, one after another; a stream (a source, or a language of one, in one split) is its
segments in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import DataError

FORMAT = "mainspring-tokens"
VERSION = 1
MANIFEST = "manifest.json"
SHARDS = "shards"

_NAME = re.compile(r"[0-9a-f]{32}\.(bin|idx)")


class Segment(NamedTuple):
    """A run of whole documents of one stream inside a shard."""

    shard: str
    """Name of the shard."""
    first_token: int
    """Where it begins in the token file, in tokens."""
    tokens: int
    """Its length."""
    first_document: int
    """Where it begins in the offsets file, in documents."""
    documents: int
    """Its number of documents."""


class ShardFile(NamedTuple):
    """What the manifest says of one shard."""

    tokens: int
    """Ids in the token file."""
    documents: int
    """Documents in it; the offsets file has one entry more."""
    bin_sha256: str
    """Checksum of the token file."""
    idx_sha256: str
    """Checksum of the offsets file."""


def write_shard(
    directory: Path, groups: Sequence[tuple[str, Sequence[NDArray[Any]], Sequence[int]]], dtype: np.dtype[Any]
) -> tuple[str, ShardFile, dict[str, Segment]]:
    """Write one shard.

    Args:
        directory: `shards/` of the build; must exist.
        groups: for each stream its key, arrays of ids, and lengths of its documents in tokens.
        dtype: of the ids on disk.

    Returns:
        The shard's name, its entry in the manifest, and the segment of each stream.
    """
    segments: dict[str, tuple[int, int, int, int]] = {}
    lengths: list[int] = [0]
    token = document = 0
    with _temporary(directory) as (bin_file, bin_path), _temporary(directory) as (idx_file, idx_path):
        bin_hash = hashlib.sha256()
        for key, arrays, document_lengths in groups:
            count = sum(document_lengths)
            segments[key] = (token, count, document, len(document_lengths))
            for array in arrays:
                data = np.ascontiguousarray(array, dtype=dtype).data.cast("B")
                bin_file.write(data)
                bin_hash.update(data)
            lengths.extend(document_lengths)
            token, document = token + count, document + len(document_lengths)
        offsets = np.cumsum(np.asarray(lengths, dtype="<i8"), dtype="<i8").data.cast("B")
        idx_file.write(offsets)
        entry = ShardFile(token, document, bin_hash.hexdigest(), hashlib.sha256(offsets).hexdigest())
        name = hashlib.sha256(bytes.fromhex(entry.bin_sha256 + entry.idx_sha256)).hexdigest()[:32]
        _settle(bin_file, bin_path, directory / f"{name}.bin")
        _settle(idx_file, idx_path, directory / f"{name}.idx")
    sync_directory(directory)
    return name, entry, {key: Segment(name, *place) for key, place in segments.items()}


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest whole or not at all."""
    with _temporary(directory) as (file, path):
        file.write(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode("utf-8") + b"\n")
        _settle(file, path, directory / MANIFEST)
    sync_directory(directory)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read a build's manifest.

    Raises:
        DataError: it is missing, damaged, or of another format version.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{directory}: no readable {MANIFEST} ({error.strerror}); make one with: mainspring data build"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); build the data again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of token shards (format {FORMAT!r} expected)")
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{path}: version {manifest.get('version')!r}, this release reads {VERSION}; build it again"
        )
    return manifest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_strays(directory: Path, keep: set[str]) -> int:
    """Remove shards that no manifest names and what interrupted writes left; returns how many files."""
    removed = 0
    for path in sorted(directory.iterdir()):
        if path.suffix == ".tmp" or (_NAME.fullmatch(path.name) and path.stem not in keep):
            path.unlink()
            removed += 1
    return removed


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _temporary(directory: Path) -> Iterator[tuple[IO[bytes], Path]]:
    handle, name = tempfile.mkstemp(dir=directory, suffix=".tmp")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            path.chmod(0o644)
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _settle(file: IO[bytes], path: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    path.replace(target)
