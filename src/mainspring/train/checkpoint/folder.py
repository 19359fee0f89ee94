"""The folder of a run's checkpoints: which are whole, which is newest, which may go."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint import manifest as manifests
from mainspring.train.checkpoint import shards
from mainspring.train.checkpoint.manifest import Manifest

TMP = ".tmp"
"""Suffix of a checkpoint that is being written."""
OLD = ".old"
"""Suffix of a checkpoint that is being deleted or replaced."""

_NAME = re.compile(r"step-(\d{8,})")


def name(step: int) -> str:
    """Folder name of the checkpoint of a step."""
    return f"step-{step:08}"


def complete(folder: Path) -> list[Path]:
    """Checkpoints with a manifest, oldest first; what a killed save left behind is not among them."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and (p / manifests.NAME).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def latest(folder: str | Path) -> Path | None:
    """The newest complete checkpoint in a folder of checkpoints, or None."""
    found = complete(Path(folder))
    return found[-1] if found else None


def verify(checkpoint: str | Path) -> Manifest:
    """Read a whole checkpoint and compare every byte with the manifest.

    Raises:
        CheckpointError: names the file, what was expected and what was found.
    """
    checkpoint = Path(checkpoint)
    content = Manifest.read(checkpoint)
    check_files(checkpoint, content)
    for entry in content.tensors.values():
        for one in entry.slices:
            shards.read(checkpoint, one, entry.dtype)
    return content


def check_files(checkpoint: Path, content: Manifest) -> None:
    """Compare the files' sizes and headers with the manifest, which finds most damage without reading them.

    Raises:
        CheckpointError: a file is missing, is shorter or longer than written, or has another header.
    """
    for file, expected in content.files.items():
        path = checkpoint / file
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; the manifest expects a file of {expected.size} bytes")
        found = shards.describe(path)
        if found.size != expected.size:
            kind = "truncated" if found.size < expected.size else "too long"
            raise CheckpointError(f"{path}: {kind}: expected {expected.size} bytes, found {found.size}")
        if found != expected:
            raise CheckpointError(
                f"{path}: damaged in its header: expected sha256 {expected.sha256}, found {found.sha256}"
            )


def advice(checkpoint: Path) -> str:
    """What to do about a damaged checkpoint: the newest older one that is intact, if any."""
    older = [p for p in complete(checkpoint.parent) if _step(p) < _step(checkpoint)]
    for candidate in reversed(older):
        try:
            verify(candidate)
        except CheckpointError:
            continue
        return f"the newest older intact one is {candidate}; remove {checkpoint} to go on from it"
    return "no older checkpoint is intact; remove it to start from the beginning"


def prune(folder: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` complete checkpoints (0 keeps all) and return what went."""
    gone = complete(folder)[:-keep] if keep else []
    for checkpoint in gone:
        retire(checkpoint)
    return gone


def sweep(folder: Path) -> None:
    """Remove what killed saves and deletions left behind."""
    if folder.is_dir():
        for left in folder.iterdir():
            if left.suffix in (TMP, OLD) and _NAME.fullmatch(left.stem):
                shutil.rmtree(left, ignore_errors=True)


def _step(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else 0


def discard(staging: Path) -> None:
    """Remove a folder that a failed save left; after a good save there is none."""
    shutil.rmtree(staging, ignore_errors=True)


def retire(folder: Path) -> None:
    """Delete a checkpoint so that half of it is never taken for a whole one."""
    old = folder.with_name(folder.name + OLD)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)
