"""Any checkpoint as whole tensors in safetensors files, for programs that know nothing of ranks and slices.

The folder is a checkpoint as well: its manifest has the same format, with each tensor in one slice.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mainspring.errors import CheckpointError, UsageError, few
from mainspring.train.checkpoint import folder as folders
from mainspring.train.checkpoint import shards
from mainspring.train.checkpoint.folder import TMP
from mainspring.train.checkpoint.io import read_whole
from mainspring.train.checkpoint.manifest import DTYPES, Entry, Manifest, Slice
from mainspring.train.checkpoint.state import MODEL, OPTIMIZER
from mainspring.train.checkpoint.storage import publish
from mainspring.train.files import write_durably

FILE_BYTES = 5 * 10**9
"""Most bytes of data in a file, as other programs cut theirs."""


def consolidate(
    checkpoint: str | Path,
    out: str | Path,
    *,
    optimizer: bool = False,
    expected: Mapping[str, Sequence[int]] | None = None,
    file_bytes: int = FILE_BYTES,
) -> Manifest:
    """Write the model of a checkpoint as `model.safetensors`, by its parameters' own names.

    What is larger than `file_bytes` is spread over files model-00001-of-00002.safetensors and so on, with
    `model.safetensors.index.json` as other programs read it. Tensors are read, checked and written one by
    one, forced to the disk and read back; the folder has its name only when all of it is whole.

    Args:
        checkpoint: of any plan.
        out: folder to make.
        optimizer: also write its states, as `optimizer.safetensors`.
        expected: names and shapes of the model's weights, where they are known.
        file_bytes: most bytes of data in a file; a larger tensor has a file to itself.

    Returns:
        What was written.

    Raises:
        UsageError: `out` exists.
        CheckpointError: the checkpoint is incomplete, damaged or of another model than `expected`, weights
            are empty, or the disk is full. Nothing is left behind.
    """
    path, target = Path(checkpoint), Path(out)
    if target.exists():
        raise UsageError(f"{target} exists; give the name of a folder to make")
    content = Manifest.read(path)
    folders.check_files(path, content)
    kinds = {"model": MODEL, **({"optimizer": OPTIMIZER} if optimizer else {})}
    _check_weights(path, content, expected, kinds)
    staging = target.with_name(target.name + TMP)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _check_room(target, content, kinds)
        staging.mkdir(parents=True)
        tensors: dict[str, Entry] = {}
        for kind, prefix in kinds.items():
            tensors |= _write(path, content, kind, prefix, staging, file_bytes)
        return publish(staging, target, content.step, tensors, {**content.run, "consolidated": str(path)})
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(
    path: Path, content: Manifest, kind: str, prefix: str, staging: Path, file_bytes: int
) -> dict[str, Entry]:
    """Write the tensors under a prefix; returns where each lies."""
    names = [name for name in content.tensors if name.startswith(prefix)]
    groups = _groups({name: _bytes(content.tensors[name]) for name in names}, file_bytes)
    written: dict[str, Entry] = {}
    for number, group in enumerate(groups, 1):
        file = f"{kind}-{number:05}-of-{len(groups):05}" if len(groups) > 1 else kind
        pending = [
            shards.Pending(
                name.removeprefix(prefix),
                DTYPES[entry.dtype],
                (0,) * len(entry.shape),
                entry.shape,
                partial(read_whole, path, entry),
            )
            for name in group
            for entry in [content.tensors[name]]
        ]
        slices: list[Slice] = shards.write(staging / f"{file}.safetensors", pending)
        for name, one in zip(group, slices, strict=True):
            entry = content.tensors[name]
            written[name] = Entry(entry.dtype, entry.shape, (one,))
    if len(groups) > 1:
        places = {name.removeprefix(prefix): entry.slices[0].file for name, entry in written.items()}
        size = sum(_bytes(entry) for entry in written.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        write_durably(staging / f"{kind}.safetensors.index.json", json.dumps(index, indent=1).encode())
    return written


def _groups(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Runs of names of at most `most` bytes each."""
    groups: list[list[str]] = [[]]
    room = most
    for name, size in sizes.items():
        if size > room and groups[-1]:
            groups.append([])
            room = most
        groups[-1].append(name)
        room -= size
    return groups


def _check_weights(
    path: Path, content: Manifest, expected: Mapping[str, Sequence[int]] | None, kinds: Mapping[str, str]
) -> None:
    for kind, prefix in kinds.items():
        if not any(name.startswith(prefix) for name in content.tensors):
            raise CheckpointError(f"{path}: holds no tensors of the {kind}")
    found = {n.removeprefix(MODEL): e.shape for n, e in content.tensors.items() if n.startswith(MODEL)}
    if expected is None:
        faults = [f"{name}: has no elements" for name, shape in found.items() if 0 in shape]
    else:
        wanted = {name: tuple(shape) for name, shape in expected.items()}
        faults = [f"{name}: not in the checkpoint" for name in wanted if name not in found]
        faults += [f"{name}: only in the checkpoint" for name in found if name not in wanted]
        faults += [
            f"{name}: checkpoint {list(found[name])}, model {list(shape)}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ]
    if faults:
        raise CheckpointError(f"{path}: not the whole model: {few(faults, '; ')}")


def _check_room(target: Path, content: Manifest, kinds: Mapping[str, str]) -> None:
    needed = sum(_bytes(e) for n, e in content.tensors.items() if n.startswith(tuple(kinds.values())))
    place = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CheckpointError(f"{target}: needs {needed:,} bytes, and {place} has {free:,} free")


def _bytes(entry: Entry) -> int:
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
