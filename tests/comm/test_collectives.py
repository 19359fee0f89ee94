"""Our collectives give what torch's give, on gloo with 2 and 3 ranks, and count it."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from mainspring import comm
from mainspring.comm import Counter
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed


def exchange(rank, world, shared=True):
    if not shared:
        comm.shared.disable()
    counter = Counter()
    torch.manual_seed(rank)
    wrong = []
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        for size in (1, 5, 1000):
            whole = (torch.randn(world * size) * 100).to(dtype)
            everyone = [torch.empty_like(whole) for _ in range(world)]
            dist.all_gather(everyone, whole)
            mine = slice(rank * size, (rank + 1) * size)
            for op in ("sum",) if dtype == torch.int64 else ("sum", "mean"):
                output = torch.empty(size, dtype=dtype)
                before = whole.clone()
                comm.reduce_scatter(output, whole, name="rs", op=op, counter=counter).wait()
                wide = torch.float32 if dtype == torch.bfloat16 else dtype
                want = everyone[0][mine].to(wide)
                for other in everyone[1:]:
                    want = want + other[mine].to(wide)
                want = want / world if op == "mean" else want
                if not torch.equal(output, want.to(dtype)):
                    wrong.append(("reduce_scatter", dtype, size, op))
                if not torch.equal(whole, before):
                    wrong.append(("reduce_scatter changed its input", dtype, size, op))
            gathered = torch.empty(world * size, dtype=dtype)
            for work in comm.all_gather(gathered, whole[mine], name="ag", counter=counter):
                work.wait()
            parts = [part[r * size : (r + 1) * size] for r, part in enumerate(everyone)]
            if not torch.equal(gathered, torch.cat(parts)):
                wrong.append(("all_gather", dtype, size))
            inplace = torch.zeros(world * size, dtype=dtype)
            inplace[mine] = whole[mine]
            for work in comm.all_gather(inplace, inplace[mine], name="ag"):
                work.wait()
            if not torch.equal(inplace, gathered):
                wrong.append(("all_gather in place", dtype, size))
    outbox = [torch.full((2 * rank + to,), 10.0 * rank + to) for to in range(world)]
    inbox = [torch.empty(2 * source + rank) for source in range(world)]
    comm.all_to_all(inbox, outbox, name="a2a", largest=3 * world, counter=counter).wait()
    if any((inbox[source] != 10.0 * source + rank).any() for source in range(world)):
        wrong.append("all_to_all")
    if counter.wire("a2a") != 4 * sum(2 * rank + to for to in range(world) if to != rank):
        wrong.append("traffic of all_to_all")
    total = torch.tensor([float(rank), 1.0])
    comm.all_reduce(total, name="ar", counter=counter)
    largest = torch.tensor(rank)
    comm.all_reduce(largest, name="max", op="max", counter=counter)
    word = torch.tensor([rank])
    comm.broadcast(word, name="bc", source=world - 1, counter=counter)
    if total.tolist() != [sum(range(world)), world] or largest != world - 1 or word != world - 1:
        wrong.append("reductions")
    # A subgroup counts its own size and its ranks are its own.
    pair = dist.new_group([0, world - 1])
    if rank in (0, world - 1):
        output = torch.empty(3)
        whole = torch.arange(6.0) * (rank + 1)
        comm.reduce_scatter(output, whole, name="sub", group=pair, counter=counter).wait()
        part = torch.arange(6.0).view(2, 3)[0 if rank == 0 else 1] * (1 + world)
        if not torch.equal(output, part):
            wrong.append(("subgroup", output, part))
    return wrong, counter.volume("ar"), counter.calls("rs")


@pytest.mark.parametrize(("world", "shared"), [(2, True), (3, True), (3, False)])
def test_like_torch(world, shared):
    for wrong, all_reduced, scatters in run_ranks(exchange, world, shared):
        assert wrong == []
        assert all_reduced == 2 * 8  # two fp32 numbers, counted twice
        assert scatters == 15


def test_without_a_group_reductions_return():
    x = torch.ones(3)
    assert comm.all_reduce(x, name="x") is None
    comm.broadcast(x, name="x")
    assert x.tolist() == [1, 1, 1]


def through_a_device(rank, world):
    """Where the backend moves memory of its devices only, a tensor of the host goes there and back."""
    here, went = torch.tensor([float(rank), 1.0]), []

    def cuda(tensor):
        went.append(tensor)
        return tensor.clone()

    counter = Counter()
    with patch.object(torch.Tensor, "cuda", cuda), patch.object(dist, "get_backend", lambda _=None: "nccl"):
        comm.all_reduce(here, name="norm", counter=counter)
        comm.all_reduce(here, name="norm", counter=counter, async_op=True).wait()
    return here.tolist(), len(went), counter.calls("norm")


def test_numbers_of_the_host_go_through_a_device_where_only_devices_talk():
    """The device is played by a copy: this machine may have none."""
    for found in run_ranks(through_a_device, 2):
        assert found == ([2.0, 4.0], 2, 2)
