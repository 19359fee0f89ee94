"""What `mainspring.comm` keeps for each process group: its shared memory, its time-out, its debug mode."""

from __future__ import annotations

import weakref
from datetime import timedelta

import torch
import torch.distributed as dist

from mainspring.comm.memory import NotShared, share
from mainspring.comm.operations import (
    ONE_SHOT_BYTES,
    AllGather,
    AllReduce,
    Barrier,
    Broadcast,
    ReduceScatter,
    SmallAllReduce,
)
from mainspring.comm.peers import Peers
from mainspring.comm.stream import ARENA_BYTES, Stream, Ticket
from mainspring.comm.sums import Reduction, Scratch


class Transport:
    """Collectives of one group through shared memory. Tensors are contiguous and on the CPU.

    Every method starts its collective and returns a ticket to `wait` for; all ranks start the same ones in
    the same order, and wait for each.
    """

    def __init__(self, group: dist.ProcessGroup | None, timeout: float) -> None:
        memory = share(group, ARENA_BYTES)
        self.rank, self.size = memory.rank, memory.size
        self.peers = Peers(memory, timeout)
        self.stream = Stream(memory, self.peers)
        self._scratch = Scratch()

    def all_reduce(self, tensor: torch.Tensor, op: Reduction, what: str) -> Ticket:
        flat = tensor.detach().view(-1)
        small = flat.numel() * flat.dtype.itemsize <= ONE_SHOT_BYTES
        kind = SmallAllReduce if small else AllReduce
        return self.stream.start(kind(flat, op, self.rank, self.size, self._scratch), what)

    def reduce_scatter(self, output: torch.Tensor, whole: torch.Tensor, op: Reduction, what: str) -> Ticket:
        rows = whole.detach().view(self.size, -1)
        operation = ReduceScatter(output.detach().view(-1), rows, op, self.rank, self.size, self._scratch)
        return self.stream.start(operation, what)

    def all_gather(self, output: torch.Tensor, shard: torch.Tensor, what: str) -> Ticket:
        rows = _bytes(output).view(self.size, -1)
        return self.stream.start(AllGather(rows, _bytes(shard), self.rank, self.size), what)

    def broadcast(self, tensor: torch.Tensor, source: int, what: str) -> Ticket:
        return self.stream.start(Broadcast(_bytes(tensor), source, self.rank, self.size), what)

    def barrier(self, what: str) -> Ticket:
        return self.stream.start(Barrier(self.rank, self.size), what)


class Channel:
    """One process group as `mainspring.comm` knows it."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.timeout = _timeout(group)
        self.why_not: str | None = None
        """Why there is no shared memory."""
        self.transport: Transport | None = None
        self._tried = False

    def shared(self, group: dist.ProcessGroup | None, tensor: torch.Tensor) -> Transport | None:
        """The shared-memory transport if it serves this tensor; the first call of a group sets it up, as a
        collective of the group."""
        if tensor.device.type != "cpu":
            return None
        if not self._tried:
            self._tried = True
            if dist.get_backend(group) != "gloo":
                self.why_not = f"the group's backend is {dist.get_backend(group)}, not gloo"
            elif dist.get_world_size(group) > 1:
                try:
                    self.transport = Transport(group, self.timeout)
                except NotShared as reason:
                    self.why_not = str(reason)
        return self.transport

    def disable(self, reason: str) -> None:
        self._tried, self.transport, self.why_not = True, None, reason

    def close(self) -> None:
        """Give the memory back."""
        if self.transport is not None:
            self.transport.peers.close()
        self.transport, self.why_not, self._tried = None, "the group has been destroyed", True


_channels: weakref.WeakKeyDictionary[dist.ProcessGroup, Channel] = weakref.WeakKeyDictionary()


def channel(group: dist.ProcessGroup | None) -> Channel:
    """The channel of `group` (None: the default group)."""
    key = group if group is not None else dist.group.WORLD
    assert key is not None, "there is no process group"
    found = _channels.get(key)
    if found is None:
        for old in [known for known in _channels if not _alive(known)]:
            _channels.pop(old).close()
        found = _channels[key] = Channel(group)
        weakref.finalize(key, found.close)
    return found


def _alive(group: dist.ProcessGroup) -> bool:
    try:
        dist.get_process_group_ranks(group)
    except (KeyError, ValueError, RuntimeError):
        return False
    return True


def _timeout(group: dist.ProcessGroup | None) -> float:
    key = group if group is not None else dist.group.WORLD
    try:
        limit: timedelta = key._get_backend(torch.device("cpu")).options._timeout  # type: ignore[union-attr]
    except (AttributeError, RuntimeError):
        return 600.0
    return limit.total_seconds()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(-1).view(torch.uint8)
