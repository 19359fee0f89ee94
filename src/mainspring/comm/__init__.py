"""Collectives that are named and counted."""

from mainspring.comm.collectives import Pending, all_gather, all_reduce, broadcast, reduce_scatter
from mainspring.comm.counter import Counter, Traffic

__all__ = ["Counter", "Pending", "Traffic", "all_gather", "all_reduce", "broadcast", "reduce_scatter"]
