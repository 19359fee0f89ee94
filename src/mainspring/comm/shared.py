"""Shared memory between the ranks of a group: whether there is any, and buffers in it.

The collectives of `mainspring.comm` use it by themselves for tensors of the CPU on a gloo group of which all
ranks are processes of one user on one host. A rank's arena is at most `ARENA_BYTES`, in slots that are
touched only when they are needed; it is anonymous memory that ends with the processes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from mainspring.comm.channel import channel
from mainspring.comm.memory import NotShared, unsupported
from mainspring.comm.stream import ARENA_BYTES
from mainspring.comm.window import Window

__all__ = ["ARENA_BYTES", "Window", "disable", "unsupported", "why_not", "window"]


def why_not(group: dist.ProcessGroup | None = None) -> str | None:
    """Why `group` does not use shared memory; None where it does. `unsupported()` answers for the machine.

    The first call or collective of a group finds out, as a collective of the group.
    """
    path = channel(group)
    path.begin(group, torch.device("cpu"), "setting up shared memory")
    return path.why_not


def disable(group: dist.ProcessGroup | None = None, reason: str = "it is switched off") -> None:
    """Do without shared memory in `group`, for instance to measure its backend. All ranks call it, when no
    collective is under way."""
    channel(group).disable(reason)


def window(
    numel: int, dtype: torch.dtype, *, name: str, group: dist.ProcessGroup | None = None
) -> Window | None:
    """A buffer of `numel` elements (each rank its own number) that the other ranks of `group` can read.

    A collective of the group. Returns None on all ranks where the group does not share memory. A window costs
    a file descriptor for each rank: make one for many tensors.
    """
    try:
        return Window(numel, dtype, name=name, group=group)
    except NotShared:
        return None
