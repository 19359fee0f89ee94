"""Spread a model over ranks: the plan, the ranks, and its execution."""

from mainspring.parallel.api import (
    apply,
    axes_of,
    clip_grad_norm,
    full_state,
    loss_scaler,
    materialize,
    no_sync,
    settle,
    sharded_state,
    shards,
    traffic,
)
from mainspring.parallel.mesh import Axes
from mainspring.parallel.plan import Plan
from mainspring.parallel.world import World
from mainspring.parallel.zero import Shard

__all__ = [
    "Axes",
    "Plan",
    "Shard",
    "World",
    "apply",
    "axes_of",
    "clip_grad_norm",
    "full_state",
    "loss_scaler",
    "materialize",
    "no_sync",
    "settle",
    "sharded_state",
    "shards",
    "traffic",
]
