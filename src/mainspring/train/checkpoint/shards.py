"""Files of tensor slices in the safetensors format, written so that what is on the disk is what was meant.

The format (github.com/huggingface/safetensors): 8 bytes little-endian length of a JSON header, the header,
the data. Slices are streamed one by one, so a file of any size needs the memory of its largest slice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint.manifest import DTYPES, SPELLINGS, File, Slice


@dataclass(frozen=True)
class Pending:
    """A slice that is to be written."""

    name: str
    """Name in the file."""
    dtype: torch.dtype
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    data: Callable[[], Tensor]
    """Gives the tensor when its turn comes."""

    @property
    def length(self) -> int:
        """Number of bytes."""
        return math.prod(self.sizes) * self.dtype.itemsize


def slice_name(name: str, offsets: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> str:
    """Name of a slice inside its file: the tensor's own where the slice is the whole of it."""
    return name if tuple(sizes) == tuple(shape) else f"{name}@{','.join(str(o) for o in offsets)}"


def write(path: Path, pending: Iterable[Pending]) -> list[Slice]:
    """Write slices to a new file, force them to the disk, read them back and compare.

    Returns:
        Where each slice lies, in the order given.

    Raises:
        CheckpointError: the disk is full or failed, or the bytes read back are not those written. Nothing
        is left.
    """
    todo = list(pending)
    try:
        with path.open("xb") as file:
            header = _header(todo)
            file.write(header)
            written = _write_data(file, path.name, len(header), todo)
            file.flush()
            os.fsync(file.fileno())
            # The pages are clean now: dropping them makes the check below read the disk, not the cache.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with path.open("rb") as file:
            for one in written:
                _read_checked(file, path, one)
            file.seek(0)
            if file.read(len(header)) != header:
                raise CheckpointError(f"{path}: the header read back is not the one written")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return written


def read(folder: Path, one: Slice, dtype: str) -> Tensor:
    """Read a slice and check it.

    Raises:
        CheckpointError: the file is missing or short, or its bytes are not those that were written.
    """
    path = folder / one.file
    try:
        with path.open("rb") as file:
            raw = _read_checked(file, path, one)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; expected {one.length} bytes of data in it") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return raw.view(DTYPES[dtype]).reshape(one.sizes)


def describe(path: Path) -> File:
    """Size of a file and the hash of its header.

    Raises:
        CheckpointError: the file is missing or too short to have a header.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = min(int.from_bytes(prefix, "little"), size)
            header = prefix + file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return File(size, len(header), hashlib.sha256(header).hexdigest())


def _header(todo: Sequence[Pending]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for one in todo:
        begin, end = end, end + one.length
        header[one.name] = {
            "dtype": SPELLINGS[one.dtype],
            "shape": list(one.sizes),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_data(file: BinaryIO, name: str, start: int, todo: Sequence[Pending]) -> list[Slice]:
    written = []
    for one in todo:
        raw = one.data().detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        assert raw.numel() == one.length, f"{one.name}: planned {one.length} bytes, got {raw.numel()}"
        view = _bytes(raw)
        file.write(view)
        digest = hashlib.sha256(view).hexdigest()
        written.append(Slice(one.offsets, one.sizes, name, start, one.length, digest))
        start += one.length
    return written


def _bytes(raw: Tensor) -> memoryview:
    return memoryview(raw.numpy())  # type: ignore[arg-type]  # arrays are buffers; numpy's stubs say so from 3.12


def _read_checked(file: BufferedReader, path: Path, one: Slice) -> Tensor:
    raw = torch.empty(one.length, dtype=torch.uint8)
    file.seek(one.start)
    got = file.readinto(_bytes(raw))
    if got != one.length:
        size = os.fstat(file.fileno()).st_size
        raise CheckpointError(
            f"{path}: truncated: expected at least {one.start + one.length} bytes, found {size}"
        )
    actual = hashlib.sha256(_bytes(raw)).hexdigest()
    if actual != one.sha256:
        raise CheckpointError(
            f"{path}: damaged in bytes {one.start} to {one.start + one.length}: "
            f"expected sha256 {one.sha256}, found {actual}"
        )
    return raw
