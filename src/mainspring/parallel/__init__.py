"""Spread a model over ranks: the plan, the ranks, and its execution."""

from mainspring.parallel.api import apply, clip_grad_norm, materialize, no_sync, settle, traffic
from mainspring.parallel.mesh import build_mesh
from mainspring.parallel.plan import Plan
from mainspring.parallel.world import World

__all__ = [
    "Plan",
    "World",
    "apply",
    "build_mesh",
    "clip_grad_norm",
    "materialize",
    "no_sync",
    "settle",
    "traffic",
]
