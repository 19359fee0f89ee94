"""Collectives that are named and counted."""

from mainspring.comm import debug, point, shared
from mainspring.comm.collectives import (
    Pending,
    all_gather,
    all_reduce,
    all_to_all,
    barrier,
    broadcast,
    reduce_scatter,
)
from mainspring.comm.counter import Counter, Traffic
from mainspring.comm.shared import Window

__all__ = [
    "Counter",
    "Pending",
    "Traffic",
    "Window",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "barrier",
    "broadcast",
    "debug",
    "point",
    "reduce_scatter",
    "shared",
]
