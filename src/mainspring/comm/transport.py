"""The collectives of one group through shared memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm.memory import share
from mainspring.comm.operations import (
    ONE_SHOT_BYTES,
    AllGather,
    AllReduce,
    AllToAll,
    Barrier,
    Broadcast,
    ReduceScatter,
    SmallAllReduce,
)
from mainspring.comm.peers import Peers
from mainspring.comm.stream import ARENA_BYTES, Stream, Ticket, progress_all
from mainspring.comm.sums import Reduction, Scratch


class Transport:
    """Collectives of one group through shared memory. Tensors are contiguous and on the CPU.

    Every method starts its collective and returns a ticket to `wait` for. All ranks start the same ones in
    the same order and wait for each. `what` names the collective in errors.

    Making one is a collective of `group`.

    Raises:
        NotShared: the ranks cannot share memory.
    """

    def __init__(self, group: dist.ProcessGroup | None, timeout: float) -> None:
        memory = share(group, ARENA_BYTES)
        self.rank, self.size = memory.rank, memory.size
        self.peers = Peers(memory, timeout, progress_all)
        self._stream = Stream(memory, self.peers)
        self._scratch = Scratch()

    def all_reduce(self, tensor: Tensor, op: Reduction, what: str) -> Ticket:
        """Reduce `tensor` in place."""
        flat = tensor.detach().view(-1)
        small = flat.numel() * flat.dtype.itemsize <= ONE_SHOT_BYTES
        kind = SmallAllReduce if small else AllReduce
        return self._stream.start(kind(flat, op, self.rank, self.size, self._scratch), what)

    def reduce_scatter(self, output: Tensor, whole: Tensor, op: Reduction, what: str) -> Ticket:
        """Reduce `whole` [N n], keeping this rank's part in `output` [n]."""
        rows = whole.detach().view(self.size, -1)
        operation = ReduceScatter(output.detach().view(-1), rows, op, self.rank, self.size, self._scratch)
        return self._stream.start(operation, what)

    def all_gather(self, output: Tensor, shard: Tensor, what: str) -> Ticket:
        """Join the shards [n] of all ranks in `output` [N n]."""
        rows = _bytes(output).view(self.size, -1)
        return self._stream.start(AllGather(rows, _bytes(shard), self.rank, self.size), what)

    def all_to_all(
        self, inbox: Sequence[Tensor], outbox: Sequence[Tensor], largest: int, what: str
    ) -> Ticket:
        """Give `outbox[r]` to rank r and take its into `inbox[r]`; no piece has more than `largest` bytes."""
        boxes = [_bytes(t) for t in inbox], [_bytes(t) for t in outbox]
        return self._stream.start(AllToAll(*boxes, largest, self.rank, self.size), what)

    def broadcast(self, tensor: Tensor, source: int, what: str) -> Ticket:
        """Copy `tensor` of rank `source` to all."""
        return self._stream.start(Broadcast(_bytes(tensor), source, self.rank, self.size), what)

    def barrier(self, what: str) -> Ticket:
        """Meet."""
        return self._stream.start(Barrier(self.rank, self.size), what)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1).view(torch.uint8)
