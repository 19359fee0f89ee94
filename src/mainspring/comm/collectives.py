"""Named, counted collectives on torch.distributed process groups.

Each takes a `name` (what the traffic is for) and an optional `Counter`. A group of None is the default group;
with no process group at all (a run of one process) the reductions, broadcasts and barriers return at once.

Tensors of the CPU travel through shared memory where the ranks of a gloo group are processes of one host
(`mainspring.comm.shared`), else over the group's backend. On gloo a collective that fails, or takes longer
than the group's time-out (`mainspring.comm.debug.set_timeout`), raises a CollectiveError that names it, the
rank that is missing and what that rank did last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm import exchange
from mainspring.comm.channel import Channel, channel
from mainspring.comm.counter import Counter, Op
from mainspring.comm.exchange import Watched
from mainspring.comm.sums import Reduction
from mainspring.comm.transport import Transport

_OPS = {
    "sum": dist.ReduceOp.SUM,
    "mean": dist.ReduceOp.AVG,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
}


class Pending(Protocol):
    """A collective under way. What it reads or writes is the caller's again after `wait`.

    Ranks start the collectives of a group in the same order and wait for each of them, in any order. Through
    shared memory the work is done by the waiting thread: start early, wait late, and do not wait for another
    rank by other means (a pipe, torch's own collectives) where that rank may be waiting for this collective.
    """

    def wait(self) -> Any:
        """Finish it."""

    def is_completed(self) -> bool:
        """Whether it has finished."""


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

    Through shared memory 16-bit floats are summed in fp32 and rounded once.

    Returns:
        The work to wait for with `async_op`, else None.
    """
    if not dist.is_initialized():
        return None
    _count(counter, name, "all_reduce", tensor, group)
    path, transport, what = _begin(f"all_reduce({op})", name, tensor, group)
    pending: Pending
    if transport is not None and tensor.is_contiguous() and _sums(tensor, op):
        pending = transport.all_reduce(tensor, op, what)
    else:
        # What a tier keeps on the host (norms, overflows) goes through a device: NCCL moves no other memory.
        away = tensor.device.type == "cpu" and dist.get_backend(group) == "nccl"
        there = tensor.cuda() if away else tensor
        work = dist.all_reduce(there, _OPS[op], group=group, async_op=True)
        pending = Watched([work], path, what, partial(tensor.copy_, there) if away else None)
    if async_op:
        return pending
    pending.wait()
    return None


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
    path, transport, what = _begin("broadcast", name, tensor, group)
    if transport is not None and tensor.is_contiguous():
        transport.broadcast(tensor, source, what).wait()
    else:
        work = dist.broadcast(tensor, group=group, group_src=source, async_op=True)
        Watched([work], path, what).wait()


def barrier(*, name: str, group: dist.ProcessGroup | None = None) -> None:
    """Wait until every rank of the group is here."""
    if not dist.is_initialized():
        return
    path = channel(group)
    what = f"barrier {name!r}"
    transport = path.begin(group, torch.device("cpu"), what)
    if transport is not None:
        transport.barrier(what).wait()
    else:
        Watched([dist.barrier(group, async_op=True)], path, what).wait()


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
    path, transport, what = _begin("all_gather", name, output, group)
    if transport is not None:
        return [transport.all_gather(output, shard, what)]
    if is_gloo(group):
        return [exchange.all_gather(output, shard, group, path, what)]
    return [Watched([_all_gather_single(output, shard, group=group, async_op=True)], path, what)]


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
    contiguous; `output` may be this rank's part of `whole`.

    On gloo every rank adds up the ranks' parts in rank order (16-bit floats in fp32, rounded once): the
    result does not depend on timing. Without shared memory every rank sends each other rank its part: 2 to 4
    times as fast as gloo's own reduce-scatter (docs/decisions/0003-parallel-on-fsdp2.md).

    Returns:
        The reduction under way; `output` holds the result after its `wait()`.
    """
    _count(counter, name, "reduce_scatter", whole, group)
    path, transport, what = _begin(f"reduce_scatter({op})", name, whole, group)
    if transport is not None and _sums(whole, op):
        return transport.reduce_scatter(output, whole, op, what)
    if is_gloo(group):
        return exchange.reduce_scatter(output, whole, op, group, path, what)
    work = _reduce_scatter_single(output, whole, _OPS[op], group=group, async_op=True)
    return Watched([work], path, what)


def all_to_all(
    inbox: Sequence[Tensor],
    outbox: Sequence[Tensor],
    *,
    name: str,
    largest: int | None = None,
    group: dist.ProcessGroup | None = None,
    counter: Counter | None = None,
) -> Pending:
    """Start giving `outbox[r]` to rank r of the group, and taking what it gives into `inbox[r]`.

    Args:
        inbox: contiguous, of one dtype; `inbox[r]` has the size that rank r's outbox has for this rank.
        outbox: contiguous, of the same dtype. Pieces of no elements are allowed.
        name: what the traffic is for.
        largest: elements of the largest piece between any two ranks, the same on every rank; None where all
            pieces have the same size.
        group: the ranks.
        counter: told the traffic.

    Returns:
        What to wait for before `inbox` is read or `outbox` is written.
    """
    rank = dist.get_rank(group)
    if counter is not None:
        sizes = [t.numel() * t.element_size() for t in outbox]
        counter.add(name, "all_to_all", sum(sizes), len(sizes), sum(sizes) - sizes[rank])
    most = outbox[rank].numel() if largest is None else largest
    path, transport, what = _begin("all_to_all", name, outbox[rank], group, most)
    if transport is not None:
        return transport.all_to_all(inbox, outbox, most * outbox[rank].element_size(), what)
    if is_gloo(group):
        return exchange.all_to_all(inbox, outbox, group, path, what)
    work = dist.all_to_all(list(inbox), list(outbox), group=group, async_op=True)
    return Watched([work], path, what)


def is_gloo(group: dist.ProcessGroup | None) -> bool:
    """True where tensors of the CPU travel over gloo."""
    return bool(dist.get_backend(group) == "gloo")


def _begin(
    op: str, name: str, tensor: Tensor, group: dist.ProcessGroup | None, elements: int | None = None
) -> tuple[Channel, Transport | None, str]:
    count = tensor.numel() if elements is None else elements
    what = f"{op} {name!r} of {count:,} {str(tensor.dtype).removeprefix('torch.')}"
    path = channel(group)
    return path, path.begin(group, tensor.device, what), what


def _sums(tensor: Tensor, op: Reduction) -> bool:
    """Whether `op` is defined here for the dtype; the backend says what is wrong otherwise."""
    return tensor.is_floating_point() or (op != "mean" and not tensor.is_complex())


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
