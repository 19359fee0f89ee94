"""Taking a run up again: which checkpoint, and whether it is of the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint import Manifest, latest
from mainspring.train.recipe import digest, identity
from mainspring.train.setup import Setup

__all__ = ["check_same_run", "digest", "identity", "micro_rows", "newest", "refuse_other"]


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint as rank 0 sees it, so that all ranks take the same."""
    found = latest(folder)
    if dist.is_initialized():
        answer: list[str | None] = [str(found) if found else None]
        dist.broadcast_object_list(answer, src=0)
        return Path(answer[0]) if answer[0] else None
    return found


def check_same_run(path: Path, setup: Setup) -> None:
    """Refuse a checkpoint whose network, samples or order of samples are not the recipe's.

    A model that was imported has no samples yet: only its tokenizer has to be the data's.

    Raises:
        CheckpointError: names each field with the checkpoint's value and the recipe's.
    """
    run = Manifest.read(path).run
    saved, wanted = run.get("identity", {}), identity(setup.recipe, setup.data)
    if run.get("imported"):
        wanted = {key: wanted[key] for key in saved}
    refuse_other(path, saved, wanted)


def refuse_other(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose identity is not the recipe's.

    Raises:
        CheckpointError: names each field with the checkpoint's value and the recipe's.
    """
    if differences := list(_differences(saved, wanted)):
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(differences)}. Use another run directory, or restore these"
        )


def micro_rows(path: Path, ranks: int) -> int:
    """Rows of a micro-batch before the interruption, if there were as many ranks; else 0."""
    run = Manifest.read(path).run
    return int(run.get("micro_rows", 0)) if run.get("world") == ranks else 0


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted({*saved, *wanted}):
        before, now = saved.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield f"{prefix}{key} was {before!r} and is {now!r}"
