"""Spread a model over ranks: the plan, the ranks, and its execution.

Names are loaded when they are first used: to read a plan is not to load what carries it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainspring.lazy import attributes

if TYPE_CHECKING:
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
    from mainspring.parallel.micro_batches import accumulate, elsewhere, has_results, measure
    from mainspring.parallel.pieces import piece_sum
    from mainspring.parallel.plan import Plan
    from mainspring.parallel.replicated import replicas
    from mainspring.parallel.world import World
    from mainspring.parallel.zero import Shard

_HOMES = {
    "api": (
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
    ),
    "mesh": ("Axes",),
    "micro_batches": ("accumulate", "elsewhere", "has_results", "measure"),
    "pieces": ("piece_sum",),
    "plan": ("Plan",),
    "replicated": ("replicas",),
    "world": ("World",),
    "zero": ("Shard",),
}

__all__ = [
    "Axes",
    "Plan",
    "Shard",
    "World",
    "accumulate",
    "apply",
    "axes_of",
    "clip_grad_norm",
    "elsewhere",
    "full_state",
    "has_results",
    "loss_scaler",
    "materialize",
    "measure",
    "no_sync",
    "piece_sum",
    "replicas",
    "settle",
    "sharded_state",
    "shards",
    "traffic",
]

__getattr__ = attributes(__name__, _HOMES)
