"""What a plan says about its collectives: compared between ranks, and how long one may take."""

from __future__ import annotations

import torch.distributed as dist

from mainspring.comm import debug
from mainspring.parallel.plan import Plan
from mainspring.parallel.strategy import Strategy
from mainspring.parallel.zero.engine import Flat


def watch_collectives(plan: Plan, strategy: Strategy) -> None:
    """Carry out `plan.debug_collectives` and `plan.collective_timeout` in all groups of `strategy`, and in
    that of all ranks. Every rank calls it."""
    if not dist.is_initialized() or not (plan.debug_collectives or plan.collective_timeout):
        return
    groups = [dist.group.WORLD, *(strategy.axes.groups if strategy.axes is not None else ())]
    if isinstance(strategy, Flat):
        groups += [row.sharers.gathers for row in strategy.rows]
    for group in {id(group): group for group in groups if group is not None}.values():
        if plan.debug_collectives:
            debug.enable(group)
        if plan.collective_timeout:
            debug.set_timeout(plan.collective_timeout, group)
