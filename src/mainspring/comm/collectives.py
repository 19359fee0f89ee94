"""Named, counted collectives on torch.distributed process groups.

Each takes a `name` (what the traffic is for) and an optional `Counter`. A group of None is the default group;
with no process group at all (a run of one process) the reductions and broadcasts return at once.

Tensors of the CPU travel through shared memory where the ranks of a gloo group are processes of one host
(`mainspring.comm.shared`), else over the group's backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm.channel import Transport, channel
from mainspring.comm.counter import Counter, Op
from mainspring.comm.sums import Reduction


class Pending(Protocol):
    """A collective under way. What it reads or writes is the caller's again after `wait`."""

    def wait(self) -> Any:
        """Finish it."""

    def is_completed(self) -> bool:
        """Whether it has finished."""


_OPS = {
    "sum": dist.ReduceOp.SUM,
    "mean": dist.ReduceOp.AVG,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
}


def all_reduce(
    tensor: Tensor,
    *,
    name: str,
    op: Reduction = "sum",
    group: dist.ProcessGroup | None = None,
    counter: Counter | None = None,
    async_op: bool = False,
) -> Pending | None:
    """Reduce `tensor` over the group in place; every rank gets the result, the same bits.

    Returns:
        The work to wait for with `async_op`, else None.
    """
    if not dist.is_initialized():
        return None
    _count(counter, name, "all_reduce", tensor, group)
    transport = _shared(tensor, group, op)
    if transport is not None and tensor.is_contiguous():
        pending = transport.all_reduce(tensor, op, _announce(transport, "all_reduce", name, tensor))
        if async_op:
            return pending
        pending.wait()
        return None
    work: dist.Work | None = dist.all_reduce(tensor, _OPS[op], group=group, async_op=async_op)
    return work


def broadcast(
    tensor: Tensor,
    *,
    name: str,
    source: int = 0,
    group: dist.ProcessGroup | None = None,
    counter: Counter | None = None,
) -> None:
    """Give every rank the `tensor` of rank `source` of the group, in place."""
    if not dist.is_initialized():
        return
    _count(counter, name, "broadcast", tensor, group)
    transport = _shared(tensor, group)
    if transport is not None and tensor.is_contiguous():
        transport.broadcast(tensor, source, _announce(transport, "broadcast", name, tensor)).wait()
        return
    dist.broadcast(tensor, group=group, group_src=source)


def all_gather(
    output: Tensor,
    shard: Tensor,
    *,
    name: str,
    group: dist.ProcessGroup | None = None,
    counter: Counter | None = None,
) -> list[Pending]:
    """Start joining the shards of all ranks in rank order. shard [n] -> output [N n], both contiguous.

    `shard` may be this rank's part of `output`. On gloo without shared memory every pair of ranks exchanges
    directly: 1.5 to 3 times as fast as gloo's own all-gather on one host
    (docs/decisions/0003-parallel-on-fsdp2.md).

    Returns:
        What to wait for before `output` is read or `shard` is written.
    """
    _count(counter, name, "all_gather", output, group)
    transport = _shared(output, group)
    if transport is not None:
        return [transport.all_gather(output, shard, _announce(transport, "all_gather", name, output))]
    if not is_gloo(group):
        return _works(_all_gather_single(output, shard, group=group, async_op=True))
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    parts = output.view(size, -1)
    works = _exchange([shard.view(-1)] * size, list(parts), group)
    if parts[rank].data_ptr() != shard.data_ptr():
        parts[rank].copy_(shard.view(-1))
    return works


def reduce_scatter(
    output: Tensor,
    whole: Tensor,
    *,
    name: str,
    op: Literal["sum", "mean"] = "sum",
    group: dist.ProcessGroup | None = None,
    counter: Counter | None = None,
) -> Pending:
    """Start reducing `whole` over the group, keeping this rank's part. whole [N n] -> output [n], both
    contiguous.

    On gloo every rank adds up the ranks' parts in rank order: the result does not depend on timing. Without
    shared memory every rank sends each other rank its part: 2 to 4 times as fast as gloo's own reduce-scatter
    (docs/decisions/0003-parallel-on-fsdp2.md).

    Returns:
        The reduction under way; `output` holds the result after its `wait()`.
    """
    _count(counter, name, "reduce_scatter", whole, group)
    transport = _shared(whole, group, op)
    if transport is not None:
        what = _announce(transport, "reduce_scatter", name, whole)
        return transport.reduce_scatter(output, whole, op, what)
    if not is_gloo(group):
        work = _reduce_scatter_single(output, whole, _OPS[op], group=group, async_op=True)
        return PendingReduction(_works(work))
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    parts = whole.view(size, -1)
    received = torch.empty_like(parts[:-1])
    inbox = [received[source - (source > rank)] if source != rank else output for source in range(size)]
    works = _exchange(list(parts), inbox, group)
    inbox[rank] = parts[rank]
    return PendingReduction(works, inbox, output.view(-1), 1 / size if op == "mean" else 1.0)


class PendingReduction:
    """A reduce-scatter under way; it keeps its buffers alive until `wait`."""

    def __init__(
        self,
        works: Sequence[Pending],
        terms: list[Tensor] | None = None,
        output: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        self._works, self._terms, self._output, self._scale = works, terms, output, scale

    def is_completed(self) -> bool:
        """Whether everything has arrived."""
        return all(work.is_completed() for work in self._works)

    def wait(self) -> None:
        """Finish: the output holds the reduced part (on CUDA: for what this stream does next)."""
        for work in self._works:
            work.wait()
        if self._terms is not None and self._output is not None:
            first, *rest = self._terms
            if rest:
                torch.add(first, rest[0], out=self._output)
            else:
                self._output.copy_(first)
            for term in rest[1:]:
                self._output.add_(term)
            if self._scale != 1.0:
                self._output.mul_(self._scale)
        self._works, self._terms, self._output = [], None, None


def is_gloo(group: dist.ProcessGroup | None) -> bool:
    """True where tensors of the CPU travel over gloo."""
    return bool(dist.get_backend(group) == "gloo")


def _shared(tensor: Tensor, group: dist.ProcessGroup | None, op: Reduction = "sum") -> Transport | None:
    if op == "mean" and not tensor.is_floating_point():
        return None
    return channel(group).shared(group, tensor)


def _announce(transport: Transport, op: Op, name: str, tensor: Tensor) -> str:
    what = f"{op} {name!r} of {tensor.numel():,} {str(tensor.dtype).removeprefix('torch.')}"
    transport.peers.enter(what)
    return what


def _exchange(outbox: list[Tensor], inbox: list[Tensor], group: dist.ProcessGroup | None) -> list[Pending]:
    """Start sending `outbox[r]` to, and receiving `inbox[r]` from, every other rank `r` of the group."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    works: list[dist.Work | None] = []
    for step in range(1, size):
        # Ring distance instead of rank order: at each step everyone talks to someone else.
        to, source = (rank + step) % size, (rank - step) % size
        works.append(dist.irecv(inbox[source], group=group, group_src=source))
        works.append(dist.isend(outbox[to], group=group, group_dst=to))
    return [work for work in works if work is not None]


def _works(work: dist.Work | None) -> list[Pending]:
    return [] if work is None else [work]


def _all_gather_single(*args: Any, **kwargs: Any) -> dist.Work | None:
    # torch 2.13 renamed it and warns about the old name.
    call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    work: dist.Work | None = call(*args, **kwargs)
    return work


def _reduce_scatter_single(*args: Any, **kwargs: Any) -> dist.Work | None:
    call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    work: dist.Work | None = call(*args, **kwargs)
    return work


def _count(
    counter: Counter | None, name: str, op: Op, tensor: Tensor, group: dist.ProcessGroup | None
) -> None:
    if counter is not None:
        counter.add(name, op, tensor.numel() * tensor.element_size(), dist.get_world_size(group))
