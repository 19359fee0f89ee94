"""The mesh of a plan: one named axis for each way the run is spread."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mainspring.errors import PlanError
from mainspring.parallel.plan import Plan


def build_mesh(plan: Plan, device_type: str = "cpu") -> DeviceMesh | None:
    """The device mesh of `plan` over all ranks, with the axis "data"; None for a run of one process.

    Raises:
        PlanError: the plan's world is not the number of ranks in the process group.
    """
    check_world(plan)
    if not dist.is_initialized():
        return None
    return init_device_mesh(device_type, (plan.data,), mesh_dim_names=("data",))


def check_world(plan: Plan) -> None:
    """Refuse a plan whose world is not the number of ranks in the process group (1 without a group)."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    if plan.world != size:
        raise PlanError(
            f"the plan needs {plan.world} ranks (data={plan.data}) but the process group has "
            f"{size}; start {plan.world} ranks with torchrun, or set plan.data={size}"
        )
