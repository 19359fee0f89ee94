"""Named, counted messages from one rank to another over a gloo group."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm.counter import Counter

_FOREVER = timedelta(days=365)
"""gloo closes every connection of a group when one message is late: who is late is found by other means."""


def send(
    tensor: Tensor,
    to: int,
    *,
    name: str,
    tag: int,
    group: dist.ProcessGroup | None = None,
    counter: Counter | None = None,
) -> None:
    """Send a contiguous `tensor` to rank `to` of the group and return when it has left.

    Messages of one tag from one rank arrive in their order. Any thread may send while others do.

    Raises:
        RuntimeError: the connection is closed.
    """
    if counter is not None:
        size = tensor.numel() * tensor.element_size()
        counter.add(name, "send", size, 2, wire=size)
    work = dist.isend(_plain(tensor), group=group, group_dst=to, tag=tag)
    assert work is not None, "this rank is no member of the group"
    work.wait(_FOREVER)


def receive(tensor: Tensor, source: int, *, tag: int, group: dist.ProcessGroup | None = None) -> None:
    """Fill a contiguous `tensor` with what rank `source` of the group sends, however long that takes.

    Raises:
        RuntimeError: the connection is closed.
    """
    work = dist.irecv(_plain(tensor), group=group, group_src=source, tag=tag)
    assert work is not None, "this rank is no member of the group"
    work.wait(_FOREVER)


def _plain(tensor: Tensor) -> Tensor:
    """The same bytes in a dtype that gloo sends."""
    return tensor.detach().view(-1).view(torch.uint8)
