"""Collectives as direct exchanges between pairs of ranks, for gloo groups whose ranks share no memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm.channel import Channel
from mainspring.comm.sums import Reduction, Scratch, reduce_into


class Watched:
    """A collective of the backend under way. It keeps its buffers alive until `wait`.

    Args:
        works: what the backend is doing.
        then: what is left to do on this rank afterwards.
    """

    def __init__(
        self,
        works: Sequence[dist.Work | None],
        channel: Channel,
        what: str,
        then: Callable[[], object] | None = None,
    ) -> None:
        self._works = [work for work in works if work is not None]
        self._channel, self._what, self._then = channel, what, then

    def is_completed(self) -> bool:
        """Whether everything has arrived."""
        return all(work.is_completed() for work in self._works)

    def wait(self) -> None:
        """Finish (on CUDA: for what this stream does next).

        Raises:
            CollectiveError: a rank did not come within the time-out, or it is gone.
        """
        try:
            for work in self._works:
                if self._channel.ledger is None:
                    work.wait()
                else:
                    work.wait(timedelta(seconds=self._channel.timeout))
        except RuntimeError as error:
            raise self._channel.explain(self._what, error) from error
        if self._then is not None:
            self._then()
        self._works, self._then = [], None


def all_gather(
    output: Tensor, shard: Tensor, group: dist.ProcessGroup | None, channel: Channel, what: str
) -> Watched:
    """Start joining `shard` [n] of all ranks in `output` [N n]."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    parts = output.view(size, -1)
    works = _exchange([shard.view(-1)] * size, list(parts), group)
    if parts[rank].data_ptr() != shard.data_ptr():
        parts[rank].copy_(shard.view(-1))
    return Watched(works, channel, what)


def reduce_scatter(
    output: Tensor, whole: Tensor, op: Reduction, group: dist.ProcessGroup | None, channel: Channel, what: str
) -> Watched:
    """Start reducing `whole` [N n], keeping this rank's part in `output` [n]."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    parts = whole.view(size, -1)
    received = torch.empty_like(parts[:-1])
    terms = [parts[rank] if r == rank else received[r - (r > rank)] for r in range(size)]
    works = _exchange(list(parts), terms, group)
    return Watched(works, channel, what, lambda: reduce_into(output.view(-1), terms, op, Scratch()))


def all_to_all(
    inbox: Sequence[Tensor],
    outbox: Sequence[Tensor],
    group: dist.ProcessGroup | None,
    channel: Channel,
    what: str,
) -> Watched:
    """Start giving `outbox[r]` to rank r, and taking its into `inbox[r]`."""
    rank = dist.get_rank(group)
    works = _exchange(outbox, inbox, group)
    inbox[rank].copy_(outbox[rank])
    return Watched(works, channel, what)


def _exchange(
    outbox: Sequence[Tensor], inbox: Sequence[Tensor], group: dist.ProcessGroup | None
) -> list[Any]:
    """Start sending `outbox[r]` to, and receiving `inbox[r]` from, every other rank `r` of the group; what
    has no elements does not travel."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    works = []
    for step in range(1, size):
        # Ring distance instead of rank order: at each step everyone talks to someone else.
        to, source = (rank + step) % size, (rank - step) % size
        if inbox[source].numel():
            works.append(dist.irecv(inbox[source], group=group, group_src=source))
        if outbox[to].numel():
            works.append(dist.isend(outbox[to], group=group, group_dst=to))
    return works
