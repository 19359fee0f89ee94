"""Packed weights: everything a network is, in one memory-mapped safetensors file per precision.

The file stands beside the model (`MODEL/packed/PRECISION.safetensors`; of a run, one for each checkpoint), or
in another folder. Tensors are as they are computed with, so that loading is mapping: pages come from the disk
when they are first used, are shared between processes, and count once. Each file knows the files that it was
made of, by size, time of change and checksum: one that is older than its source is not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mainspring.config import Section, parse
from mainspring.errors import UsageError
from mainspring.infer.load import Place, Shape

FOLDER = "packed"
_KEY = "mainspring"
_VERSION = 1


class Stamp(Section):
    """A file that went into a pack."""

    size: int
    changed: int
    """Time of its last change, in nanoseconds."""
    digest: str
    """BLAKE2b of its bytes, in hexadecimal."""


class Header(Section):
    """What a packed file says of itself."""

    version: int
    precision: str
    shape: Shape
    sources: dict[str, Stamp]
    """By path, from the model's folder on."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed file that is up to date."""

    path: Path
    header: Header

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of its tensors."""
        with safe_open(self.path, "pt") as file:
            return file.metadata() or {}

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, mapped: nothing is read before it is used."""
        found: dict[str, Tensor] = load_file(self.path)
        return found


def path_of(place: Place, precision: str, folder: str | Path | None = None) -> Path:
    """Where the pack of a place in a precision stands (`folder`: in place of the model's own)."""
    root = place.directory / FOLDER if folder is None else Path(folder)
    step = "" if place.checkpoint is None else f"{place.checkpoint.name}-"
    return root / f"{step}{precision}.safetensors"


def write(
    place: Place,
    shape: Shape,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    precision: str,
    path: Path,
) -> Path:
    """Write a pack; the file gets its name once it is whole. Tensors and metadata: `precision.packed`.

    Raises:
        UsageError: the folder cannot be written.
    """
    sources = {_name(place, file): _stamp(file) for file in place.files}
    header = Header(version=_VERSION, precision=precision, shape=shape, sources=sources)
    unfinished = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, unfinished, metadata={**metadata, _KEY: header.model_dump_json(exclude_none=True)})
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{path}: cannot be written ({error}); name another folder for packed weights (--folder)"
        ) from error
    return path


def find_pack(place: Place, precision: str, folder: str | Path | None = None) -> Packed | None:
    """The pack of a place in a precision, where there is one that is up to date; None else."""
    path = path_of(place, precision, folder)
    header = read_header(path)
    if header is None or header.version != _VERSION or header.precision != precision:
        return None
    return Packed(path, header) if _up_to_date(place, header) else None


def read_header(path: Path) -> Header | None:
    """What a file says of itself; None where there is no packed file."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(_KEY)
        return None if said is None else parse(Header, json.loads(said), source=str(path))
    except (SafetensorError, OSError, ValueError):  # damaged, or of another version: it is made again
        return None


def _up_to_date(place: Place, header: Header) -> bool:
    files = {_name(place, file): file for file in place.files}
    return files.keys() == header.sources.keys() and all(
        _unchanged(files[name], stamp) for name, stamp in header.sources.items()
    )


def _unchanged(file: Path, stamp: Stamp) -> bool:
    """By size and time; where only the time differs (a copy), by the bytes."""
    status = file.stat()
    if status.st_size != stamp.size:
        return False
    return status.st_mtime_ns == stamp.changed or _digest(file) == stamp.digest


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return Stamp(size=status.st_size, changed=status.st_mtime_ns, digest=_digest(file))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _name(place: Place, file: Path) -> str:
    return file.relative_to(place.directory).as_posix()
