"""Our storage for torch.distributed.checkpoint: its planner decides who writes what, this decides how.

Each rank writes its slices into one safetensors file in `<name>.tmp`; the coordinator writes the manifest
and renames the folder when all files are on the disk and verified. No pickle reaches the disk.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint import manifest as manifests
from mainspring.train.checkpoint import shards
from mainspring.train.checkpoint.folder import TMP, retire
from mainspring.train.checkpoint.manifest import DTYPES, SPELLINGS, Entry, Manifest, Slice
from mainspring.train.files import sync_folder, write_durably


class Writer(StorageWriter):
    """Writes one checkpoint to `target`; the folder appears under that name only when it is whole.

    Args:
        target: folder of the checkpoint.
        step: optimizer steps done.
        run: what else the manifest shall tell.
    """

    def __init__(self, target: Path, step: int, run: Mapping[str, Any]) -> None:
        self.target = target
        self.staging = target.with_name(target.name + TMP)
        self._step = step
        self._run = dict(run)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do: a writer serves one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The coordinator makes the folder; the planning that follows makes the others wait for it."""
        if is_coordinator:
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Give each rank its file."""
        return [
            dataclasses.replace(plan, storage_data=f"rank-{rank:05}.safetensors")
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write, force to the disk and verify this rank's slices."""
        future: Future[list[WriteResult]] = Future()
        written: list[Slice] = []
        if plan.items:
            pending = [_pending(item, planner) for item in plan.items]
            written = shards.write(self.staging / plan.storage_data, pending)
        future.set_result(
            [WriteResult(item.index, one.length, one) for item, one in zip(plan.items, written, strict=True)]
        )
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the manifest and let the checkpoint appear.

        Raises:
            CheckpointError: the disk is full or failed.
        """
        slices: dict[str, list[Slice]] = {}
        for result in (r for of_rank in results for r in of_rank):
            slices.setdefault(result.index.fqn, []).append(result.storage_data)
        tensors = {}
        for name, meta in sorted(metadata.state_dict_metadata.items()):
            assert isinstance(meta, TensorStorageMetadata)
            spelling = SPELLINGS[meta.properties.dtype]
            tensors[name] = Entry(spelling, tuple(meta.size), tuple(slices[name]))
        publish(self.staging, self.target, self._step, tensors, self._run)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any path is one."""
        return True


class Reader(StorageReader):
    """Reads slices of the checkpoint in `source`, checking each.

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged.
    """

    def __init__(self, source: Path, content: Manifest | None = None) -> None:
        self.source = source
        self.manifest = content or Manifest.read(source)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do: a reader serves one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The manifest in the planner's terms."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(dtype=DTYPES[entry.dtype]),
                    torch.Size(entry.shape),
                    [ChunkStorageMetadata(torch.Size(s.offsets), torch.Size(s.sizes)) for s in entry.slices],
                )
                for name, entry in self.manifest.tensors.items()
            }
        )

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing to do."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy the parts that this rank needs into its tensors; items of a slice that follow each other
        share a read."""
        for index, items in groupby(plan.items, key=lambda item: item.storage_index):
            entry = self.manifest.tensors[index.fqn]
            source = shards.read(self.source, _find(entry, index), entry.dtype)
            for item in items:
                target = planner.resolve_tensor(item).detach()
                target.copy_(_box(source, item.storage_offsets, item.lengths))
                planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any path is one."""
        return True


def publish(
    staging: Path, target: Path, step: int, tensors: dict[str, Entry], run: Mapping[str, Any]
) -> Manifest:
    """Write the manifest of files that are on the disk, and let the folder appear under its name.

    Raises:
        CheckpointError: the disk is full or failed.
    """
    files = {one.file for entry in tensors.values() for one in entry.slices}
    try:
        described = {file: shards.describe(staging / file) for file in sorted(files)}
        content = Manifest(step, tensors, described, dict(run))
        write_durably(staging / manifests.NAME, content.to_bytes())
        sync_folder(staging)
        if target.exists():  # an earlier checkpoint of this step, known to be damaged
            retire(target)
        staging.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {error.strerror or error}") from error
    return content


def _pending(item: WriteItem, planner: SavePlanner) -> shards.Pending:
    data = item.tensor_data
    assert data is not None

    def resolve() -> Tensor:
        tensor = planner.resolve_data(item)
        assert isinstance(tensor, Tensor)
        return tensor

    offsets, sizes = tuple(data.chunk.offsets), tuple(data.chunk.sizes)
    name = shards.slice_name(item.index.fqn, offsets, sizes, data.size)
    return shards.Pending(name, data.properties.dtype, offsets, sizes, resolve)


def _find(entry: Entry, index: MetadataIndex) -> Slice:
    offsets = tuple(index.offset) if index.offset is not None else (0,) * len(entry.shape)
    return next(s for s in entry.slices if s.offsets == offsets)


def _box(tensor: Tensor, offsets: torch.Size, lengths: torch.Size) -> Tensor:
    for dim, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        tensor = tensor.narrow(dim, offset, length)
    return tensor
