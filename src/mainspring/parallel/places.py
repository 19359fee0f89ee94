"""From a plan to the place where its masters live."""

from __future__ import annotations

import torch.distributed as dist

from mainspring.parallel.disk import DiskPlacement
from mainspring.parallel.offload import HostPlacement
from mainspring.parallel.plan import Plan
from mainspring.parallel.zero.placement import Placement


def place(plan: Plan) -> Placement | None:
    """What `plan.offload` says, for this rank; None for beside the computation.

    Raises:
        DiskError: the folder of the plan cannot be used.
    """
    if plan.offload == "disk":
        assert plan.offload_folder is not None
        return DiskPlacement(plan.offload_folder, rank=dist.get_rank() if dist.is_initialized() else 0)
    if plan.offload == "host":
        return HostPlacement(plan.offload_ratio, plan.offload_delay)
    return None
