"""The manifest of a checkpoint: which slice of which logical tensor lies where, and what its bytes hash to.

JSON, so that any tool reads it; it carries a checksum of itself, so that a damaged manifest is told from a
good one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint.cover import fault

NAME = "manifest.json"
FORMAT = "mainspring-checkpoint/1"

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Spelling of element types in safetensors files."""
SPELLINGS = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Slice:
    """A box of a logical tensor and the place of its bytes."""

    offsets: tuple[int, ...]
    """First index in each dim."""
    sizes: tuple[int, ...]
    """Length in each dim."""
    file: str
    """Name of the file, in the checkpoint's folder."""
    start: int
    """Byte in the file where it begins."""
    length: int
    """Number of bytes."""
    sha256: str
    """Hash of the bytes."""


@dataclass(frozen=True)
class Entry:
    """A logical tensor."""

    dtype: str
    """Element type as safetensors spells it."""
    shape: tuple[int, ...]
    """Shape of the whole."""
    slices: tuple[Slice, ...]
    """Boxes that cover the whole without overlap."""


@dataclass(frozen=True)
class File:
    """A file of slices. The slices' hashes cover its data, this one covers what precedes them."""

    size: int
    """Number of bytes."""
    header: int
    """Number of bytes before the data."""
    sha256: str
    """Hash of those."""


@dataclass(frozen=True)
class Manifest:
    """All there is to know of a checkpoint but the bytes of its tensors."""

    step: int
    """Optimizer steps done."""
    tensors: dict[str, Entry]
    """Logical tensors by name: `model.<parameter>`, `optimizer.<parameter>.<state>`."""
    files: dict[str, File]
    """Files by name, in the checkpoint's folder."""
    run: dict[str, Any] = field(default_factory=dict)
    """State that is not a tensor: seed, recipe hash, world, library versions."""

    def to_bytes(self) -> bytes:
        """JSON with its own checksum."""
        values = {"format": FORMAT, **asdict(self)}
        return json.dumps({**values, "sha256": _digest(values)}, indent=1).encode()

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read and check the manifest in a checkpoint's folder.

        Raises:
            CheckpointError: it is missing, is not of this format, was changed after it was written, or a
                tensor is partial.
        """
        path = checkpoint / NAME
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(
                f"{checkpoint}: {NAME} is missing; this is not a complete checkpoint"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else type(values).__name__
            raise CheckpointError(f"{path}: expected format {FORMAT!r}, found {found!r}")
        stated = values.pop("sha256", None)
        actual = _digest(values)
        if stated != actual:
            raise CheckpointError(f"{path}: damaged: expected sha256 {stated}, its bytes give {actual}")
        tensors = {name: _entry(value) for name, value in values["tensors"].items()}
        for name, entry in tensors.items():
            if found := fault(entry.shape, [(one.offsets, one.sizes) for one in entry.slices]):
                raise CheckpointError(f"{path}: {name} is not whole: {found}")
        files = {name: File(**value) for name, value in values["files"].items()}
        return cls(values["step"], tensors, files, values["run"])


def _entry(value: Mapping[str, Any]) -> Entry:
    slices = tuple(
        Slice(tuple(s["offsets"]), tuple(s["sizes"]), s["file"], s["start"], s["length"], s["sha256"])
        for s in value["slices"]
    )
    return Entry(value["dtype"], tuple(value["shape"]), slices)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
