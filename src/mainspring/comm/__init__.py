"""Collectives that are named and counted."""

from mainspring.comm.collectives import PendingReduction, all_gather, all_reduce, broadcast, reduce_scatter
from mainspring.comm.counter import Counter, Traffic

__all__ = [
    "Counter",
    "PendingReduction",
    "Traffic",
    "all_gather",
    "all_reduce",
    "broadcast",
    "reduce_scatter",
]
