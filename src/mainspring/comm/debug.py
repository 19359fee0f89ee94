"""Find the rank that goes its own way.

Without this, a group notes for every rank the last operation that it entered, and a collective that takes
longer than the time-out says who is late and where that rank was. In debug mode all ranks compare the name,
kind, dtype and size of every collective before it moves anything: the first difference is an error on all of
them, instead of a hang or wrong numbers. It makes every collective wait for all ranks to enter it.
"""

from __future__ import annotations

import torch.distributed as dist

from mainspring.comm.channel import channel


def enable(group: dist.ProcessGroup | None = None, *, timeout: float | None = None) -> None:
    """Compare every collective of `group` between its ranks from now on. All ranks call it at the same point.

    Args:
        timeout: seconds that a collective may take; None leaves it as it is.
    """
    channel(group).debug = True
    if timeout is not None:
        set_timeout(timeout, group)


def disable(group: dist.ProcessGroup | None = None) -> None:
    """Stop comparing. All ranks call it at the same point."""
    channel(group).debug = False


def set_timeout(seconds: float, group: dist.ProcessGroup | None = None) -> None:
    """Let a collective of `group` take `seconds` before the error that names the late rank. Before the first
    call it is the group's own time-out (`init_process_group(timeout=)`)."""
    channel(group).set_timeout(group, seconds)
