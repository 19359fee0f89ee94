"""Who writes and who reads which boxes, in the terms of torch.distributed.checkpoint.

Its default planners do not know pieces of flat shards, and say less of what is amiss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from mainspring.errors import CheckpointError, few
from mainspring.train.checkpoint.boxes import Box, Held, held
from mainspring.train.checkpoint.cover import fault
from mainspring.train.checkpoint.tiers import Opened


class Saving(SavePlanner):
    """Plans that write every element of every logical tensor once, by one of the ranks that hold it."""

    def __init__(self) -> None:
        self._opened = Opened(write=False)

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """Find the boxes of named tensors."""
        self._held = {name: held(name, tensor) for name, tensor in state_dict.items()}

    def create_local_plan(self) -> SavePlan:
        """Everything that is here, one tier after another."""
        return SavePlan([_write(n, one, box) for n, one in _by_tier(self._held) for box in one.boxes])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """What several ranks hold is written by the one with the least to write.

        Raises:
            CheckpointError: names the tensors of which ranks disagree, or of which elements are missing.
        """
        _agree(all_plans)
        plans, metadata = create_default_global_save_plan(dedup_save_plans(all_plans))
        faults = []
        for name, meta in sorted(metadata.state_dict_metadata.items()):
            assert isinstance(meta, TensorStorageMetadata)
            if found := fault(meta.size, [(chunk.offsets, chunk.sizes) for chunk in meta.chunks]):
                faults.append(f"{name}: {found}")
        _refuse(faults)
        return plans, metadata

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """As planned."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The elements of a box."""
        self._opened.enter(self._held[write_item.index.fqn].tier)
        return _find(self._held, write_item.index).data

    def close(self) -> None:
        """Let go of what was opened."""
        self._opened.close()


class Loading(LoadPlanner):
    """Plans that fill the boxes of this process from whatever slices there are."""

    def __init__(self) -> None:
        self._opened = Opened(write=True)

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Find the boxes of named tensors."""
        assert metadata is not None
        self._metadata = metadata
        self._held = {name: held(name, tensor) for name, tensor in state_dict.items()}

    def create_local_plan(self) -> LoadPlan:
        """The parts of slices that lie in boxes of this process."""
        items: list[ReadItem] = []
        for name, one in _by_tier(self._held):
            stored = self._metadata.state_dict_metadata[name]
            assert isinstance(stored, TensorStorageMetadata)
            wanted = create_read_items_for_chunk_list(name, stored, [_chunk(box) for box in one.boxes])
            items += sorted(wanted, key=lambda item: item.storage_index.offset or ())
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """As the ranks planned."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return central_plan

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Where the elements of an item go."""
        self._opened.enter(self._held[read_item.dest_index.fqn].tier)
        target = _find(self._held, read_item.dest_index).data
        for dim, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dim, offset, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing to do: the target is a view."""

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """There are only tensors."""
        raise CheckpointError(f"{read_item.dest_index.fqn}: only tensors can be loaded")

    def close(self) -> None:
        """Let go of what was opened, and so have it kept."""
        self._opened.close()


def _by_tier(all_held: dict[str, Held]) -> list[tuple[str, Held]]:
    """What is in one tier together, so that each is opened once."""
    order: dict[int, int] = {}
    for one in all_held.values():
        order.setdefault(id(one.tier), len(order))
    return sorted(all_held.items(), key=lambda item: order[id(item[1].tier)])


def _write(name: str, whole: Held, box: Box) -> WriteItem:
    return WriteItem(
        MetadataIndex(name, torch.Size(box.offsets)),
        WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=_chunk(box), properties=TensorProperties(dtype=whole.dtype), size=whole.shape
        ),
    )


def _chunk(box: Box) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))


def _find(all_held: dict[str, Held], index: MetadataIndex) -> Box:
    assert index.offset is not None
    return next(box for box in all_held[index.fqn].boxes if box.offsets == tuple(index.offset))


def _agree(plans: Sequence[SavePlan]) -> None:
    """Refuse ranks that mean different tensors by one name."""
    first: dict[str, tuple[int, object]] = {}
    faults = []
    for rank, plan in enumerate(plans):
        for item in plan.items:
            data = item.tensor_data
            assert data is not None
            said = (tuple(data.size), data.properties.dtype)
            there, expected = first.setdefault(item.index.fqn, (rank, said))
            if said != expected:
                faults.append(f"{item.index.fqn}: rank {there} has {expected}, rank {rank} {said}")
    _refuse(faults)


def _refuse(faults: list[str]) -> None:
    if faults:
        raise CheckpointError(f"not saved, for weights would be partial: {few(faults, '; ')}")
