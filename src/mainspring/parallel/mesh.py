"""The mesh of a plan: which ranks share what with this one, along each way in which the run is spread.

Ranks are numbered with the tensor axis fastest, then sequence, data and pipeline (Narayanan et al. 2021,
arXiv 2104.04473, section 3: what talks most lies closest together). Groups of experts are consecutive ranks
of the data axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from mainspring.errors import PlanError
from mainspring.nn.span import cut_of
from mainspring.parallel.plan import Plan

Axis = Literal[
    "tensor", "sequence", "data", "pipeline", "expert", "expert_data", "replicas", "expert_replicas"
]
_SLOWEST_FIRST = ("pipeline", "expert_data", "expert", "sequence", "tensor")
_JOINED: dict[str, tuple[str, ...]] = {
    "data": ("expert_data", "expert"),
    "replicas": ("expert_data", "expert", "sequence"),
    "expert_replicas": ("expert_data", "sequence"),
}


class Axes:
    """Where a rank stands in a plan's mesh, and its groups of ranks.

    Of the joined axes "replicas" are the ranks that hold the same dense parameters (before ZeRO shards them)
    and read other tokens: data x sequence. "expert_replicas" are those that hold the same experts; "data" is
    cut in "expert_data" x "expert".

    Args:
        sizes: length of each axis, slowest first.
        rank: which rank this is.
        groups: process group of each axis that is longer than 1.
    """

    def __init__(
        self, sizes: Mapping[str, int], rank: int, groups: Mapping[str, dist.ProcessGroup] | None = None
    ) -> None:
        self._sizes = dict(sizes)
        self._groups = dict(groups or {})
        self.rank = rank
        """Number of this rank in the world."""
        self._place: dict[str, int] = {}
        for axis in reversed(self._sizes):
            rank, self._place[axis] = divmod(rank, self._sizes[axis])

    @classmethod
    def of(cls, plan: Plan) -> Axes:
        """The mesh of `plan` over all ranks of the process group. Every rank calls it.

        Raises:
            PlanError: the plan's world is not the number of ranks.
        """
        check_world(plan)
        axes = cls(_sizes(plan), dist.get_rank() if dist.is_initialized() else 0)
        made: dict[tuple[int, ...], dist.ProcessGroup] = {}
        for axis in (*_SLOWEST_FIRST, *_JOINED):
            ranks = tuple(axes.ranks(axis))
            if len(ranks) == 1:
                continue
            if ranks not in made:
                made[ranks] = _group(ranks)
            axes._groups[axis] = made[ranks]
        return axes

    @classmethod
    def alone(cls) -> Axes:
        """The mesh of one rank."""
        return cls(_sizes(Plan()), 0)

    @property
    def world(self) -> int:
        """Number of ranks."""
        return math.prod(self._sizes.values())

    def size(self, axis: Axis | str) -> int:
        """Number of ranks along an axis."""
        return math.prod(self._sizes[part] for part in _JOINED.get(axis, (axis,)))

    def index(self, axis: Axis | str) -> int:
        """Where this rank stands along an axis."""
        found = 0
        for part in _JOINED.get(axis, (axis,)):
            found = found * self._sizes[part] + self._place[part]
        return found

    def group(self, axis: Axis | str) -> dist.ProcessGroup | None:
        """The ranks along an axis through this one, in order; None where there is only this one."""
        return self._groups.get(axis)

    @property
    def groups(self) -> list[dist.ProcessGroup]:
        """All groups that this rank is in; one that serves several axes is listed for each."""
        return list(self._groups.values())

    def device_mesh(self, kind: str) -> DeviceMesh:
        """The mesh as PyTorch's, over the same groups, for modules that bring DTensors of their own.

        It has those of the dimensions "pipeline", "data", "sequence" and "tensor" (slowest first) that are
        longer than 1. Our own parameters are plain tensors that carry what of the whole they are.

        Args:
            kind: of the devices, "cpu" or "cuda".

        Raises:
            PlanError: there is one rank, which has no groups.
        """
        groups = {axis: self.group(axis) for axis in ("pipeline", "data", "sequence", "tensor")}
        longer = {axis: group for axis, group in groups.items() if group is not None}
        if not longer:
            raise PlanError("a mesh of one rank has no groups; make a torch DeviceMesh of your own for it")
        everyone = torch.arange(self.world).view([self.size(axis) for axis in longer])
        return DeviceMesh.from_group(list(longer.values()), kind, mesh=everyone, mesh_dim_names=tuple(longer))

    def ranks(self, axis: Axis | str) -> list[int]:
        """Their numbers in the world, in order."""
        found = [self.rank]
        for part in _JOINED.get(axis, (axis,)):
            found = [
                number + (index - self._place[part]) * self._stride(part)
                for number in found
                for index in range(self._sizes[part])
            ]
        return found

    def _stride(self, axis: str) -> int:
        names = list(self._sizes)
        return math.prod(self._sizes[faster] for faster in names[names.index(axis) + 1 :])


def copies_of(parameter: Tensor) -> Literal["replicas", "expert_replicas"]:
    """The axis of the ranks that hold the same of a parameter as this one (before ZeRO shards it)."""
    cut = cut_of(parameter)
    return "expert_replicas" if cut is not None and "expert" in cut.axes else "replicas"


def check_world(plan: Plan) -> None:
    """Refuse a plan whose world is not the number of ranks in the process group (1 without a group)."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    if plan.world != size:
        raise PlanError(
            f"the plan needs {plan.spread} but the process group has {size}; {remedy(plan, size)}"
        )


def remedy(plan: Plan, ranks: int) -> str:
    """What to do where the plan's world is not the number of ranks."""
    start = f"start {plan.world} ranks with torchrun --nproc-per-node={plan.world} (or several nodes)"
    others = plan.world // plan.data
    return f"{start}, or set plan.data={ranks // others}" if ranks % others == 0 else start


def _sizes(plan: Plan) -> dict[str, int]:
    sizes = {
        "pipeline": plan.pipeline,
        "expert_data": plan.data // plan.expert,
        "expert": plan.expert,
        "sequence": plan.sequence,
        "tensor": plan.tensor,
    }
    return {axis: sizes[axis] for axis in _SLOWEST_FIRST}


def _group(ranks: Sequence[int]) -> dist.ProcessGroup:
    world = dist.group.WORLD
    if len(ranks) == dist.get_world_size() and world is not None:
        return world
    # Only the members make it: a trillion-parameter mesh has thousands of groups.
    group: dist.ProcessGroup = dist.new_group(list(ranks), use_local_synchronization=True)
    return group
