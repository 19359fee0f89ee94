"""Before a run on the disk tier: its folder is tried out on every machine, and a step's time predicted."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from mainspring.errors import DiskError
from mainspring.parallel import World
from mainspring.parallel.disk import Preflight, Traffic, preflight
from mainspring.parallel.disk.preflight import TRIAL_BYTES
from mainspring.parallel.plan import Plan
from mainspring.planner import Estimate
from mainspring.train.events import DiskTried

_ELSEWHERE = ("optimizer", "offload")
"""What of a step's expected seconds is neither forward nor backward nor talking to other ranks."""


def try_disk(plan: Plan, precision: str, world: World, estimate: Estimate, *, passes: int = 1) -> DiskTried:
    """Write to and read from `plan.offload_folder`, and say how long a step will take with it.

    One rank of each machine does so for all ranks there, which share its disk; what is told is of the
    slowest. Every rank calls it.

    Args:
        plan: of the run.
        precision: of forward and backward.
        world: the ranks.
        estimate: what a step is expected to take.
        passes: how often the optimizer goes over its states in a step.

    Raises:
        DiskError: on some machine there is too little room, the folder cannot be used, or it does not give
            back what was written; on every rank, with the numbers.
    """
    assert plan.offload_folder is not None
    needed = world.local_size * sum(estimate.disk_by_kind.values())
    found: Preflight | DiskError | None = None
    if world.local_rank == 0:
        try:
            found = preflight(plan.offload_folder, needed, trial=min(TRIAL_BYTES, needed))
        except DiskError as error:
            found = error
    everyone: list[Any] = [found]
    if dist.is_initialized():
        everyone = [None] * world.size
        dist.all_gather_object(everyone, found)
    for rank, one in enumerate(everyone):
        if isinstance(one, DiskError):
            raise one if rank == world.rank else DiskError(f"rank {rank}: {one}")
    traffic = Traffic.of(
        world.local_size * estimate.parameters.shard,
        compute_bytes=4 if precision == "fp32" else 2,
        gathers=2 * estimate.accumulation if plan.zero == 3 else 0,
        passes=passes,
    )
    elsewhere = {kind: estimate.seconds_by_kind.get(kind, 0.0) for kind in _ELSEWHERE}
    compute = estimate.seconds_per_step - sum(elsewhere.values())

    def seconds(one: Preflight) -> float:
        return one.step_seconds(traffic, compute, elsewhere["optimizer"])

    slowest = max((one for one in everyone if isinstance(one, Preflight)), key=seconds)
    return DiskTried(
        step=0,
        folder=str(slowest.folder),
        needed_bytes=slowest.needed,
        free_bytes=slowest.free,
        read_rate=slowest.read_rate,
        write_rate=slowest.write_rate,
        direct=slowest.direct,
        read_per_step=traffic.parameters + traffic.step_read,
        written_per_step=traffic.step_written,
        seconds_per_step=seconds(slowest),
    )
