"""Collectives through shared memory give what a plain computation gives, in any order of waits, in bounded
memory; whoever dies is named."""

import gc
import os
import random
import re
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mainspring import comm
from mainspring.comm.shared import ARENA_BYTES
from mainspring.comm.stream import SLOT_BYTES
from mainspring.errors import CollectiveError
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
SIZES = [0, 1, 3, 64, 1000, SLOT_BYTES // 4, SLOT_BYTES // 2 + 5, SLOT_BYTES + 77]
LARGE = ARENA_BYTES // 4 + 12345
"""Elements of fp32 that do not fit in the arena."""


def draw(seed, rank, n, dtype):
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return (torch.randn(n, generator=generator) * 40).to(dtype)


def combined(terms, op, dtype):
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    total = terms[0].to(wide)
    for term in terms[1:]:
        term = term.to(wide)
        total = {"sum": torch.add, "mean": torch.add, "max": torch.maximum, "min": torch.minimum}[op](
            total, term
        )
    return (total / len(terms) if op == "mean" else total).to(dtype)


def begin(kind, seed, rank, size, n, dtype, op, group):
    """Start one collective; returns what to wait for and a check of the result."""
    if kind == "all_reduce":
        terms = [draw(seed, r, n, dtype) for r in range(size)]
        mine = terms[rank].clone()
        pending = comm.all_reduce(mine, name="x", op=op, group=group, async_op=True)
        return pending, lambda: torch.equal(mine, combined(terms, op, dtype))
    if kind == "reduce_scatter":
        terms = [draw(seed, r, n * size, dtype) for r in range(size)]
        whole = terms[rank].clone()
        out = whole.view(size, -1)[rank] if seed % 3 == 0 else torch.empty(n, dtype=dtype)
        pending = comm.reduce_scatter(out, whole, name="x", op=op, group=group)
        mine = slice(rank * n, (rank + 1) * n)
        return pending, lambda: torch.equal(out, combined([term[mine] for term in terms], op, dtype))
    if kind == "all_to_all":
        most = n * (seed % 3 + 1)
        width = lambda giver, taker: (7 * giver + 3 * taker + seed) * n % (most + 1)  # noqa: E731
        gifts = [[draw(seed + t, g, width(g, t), dtype) for t in range(size)] for g in range(size)]
        inbox = [torch.empty_like(gifts[giver][rank]) for giver in range(size)]
        pending = comm.all_to_all(inbox, gifts[rank], name="x", largest=most, group=group)
        return pending, lambda: all(torch.equal(inbox[g], gifts[g][rank]) for g in range(size))
    shards = [draw(seed, r, n, dtype) for r in range(size)]
    output = torch.empty(n * size, dtype=dtype)
    mine = shards[rank]
    if seed % 2:
        output.view(size, -1)[rank].copy_(mine)
        mine = output.view(size, -1)[rank]
    (pending,) = comm.all_gather(output, mine, name="x", group=group)
    return pending, lambda: torch.equal(output, torch.cat(shards))


def campaign(rank, world, seed):
    choose = random.Random(seed)  # the same on all ranks
    subsets = [list(range(world)), [0, world - 1], list(range(1, world))]
    groups = [(None, subsets[0])] + [(dist.new_group(s), s) for s in subsets[1:]]
    order = random.Random(f"{seed} {rank}")  # not the same
    wrong, flying = [], []
    for step in range(90):
        kind = choose.choice(["all_reduce", "reduce_scatter", "all_gather", "all_to_all"])
        dtype, n, op = (
            choose.choice(DTYPES),
            choose.choice(SIZES),
            choose.choice(["sum", "mean", "max", "min"]),
        )
        if dtype == torch.bool or (op == "mean" and not dtype.is_floating_point):
            op = "max"
        op = "sum" if kind == "reduce_scatter" and op in ("max", "min") else op
        group, members = choose.choice(groups)
        if step in (20, 21, 22):
            kind, dtype, n = ["all_reduce", "all_gather", "reduce_scatter"][step - 20], torch.float32, LARGE
            op, group, members = "sum", None, subsets[0]
        flush = choose.random() < 0.3
        if rank in members:
            at = members.index(rank)
            pending, check = begin(kind, step, at, len(members), n, dtype, op, group)
            flying.append(((step, kind, dtype, n, op, members), pending, check))
        if flush:
            # Waits in an order of this rank's own.
            order.shuffle(flying)
            for about, pending, check in flying:
                if order.random() < 0.3:
                    pending.is_completed()
                pending.wait()
                if not (check() and pending.is_completed()):
                    wrong.append(about)
            flying = []
    for about, pending, check in flying:
        pending.wait()
        wrong += [] if check() else [about]
    word = draw(5, rank, 1000, torch.float64)
    comm.broadcast(word, name="x", source=world - 1)
    if not torch.equal(word, draw(5, world - 1, 1000, torch.float64)):
        wrong.append("broadcast")
    reasons = [
        comm.shared.why_not(group) for group, members in groups if rank in members and len(members) > 1
    ]
    return wrong, reasons, resident()


def resident():
    """Bytes of shared memory that this process has touched (its own and the others')."""
    text = Path("/proc/self/smaps").read_text()
    blocks = re.findall(r"memfd:mainspring.*?Rss:\s+(\d+) kB", text, re.DOTALL)
    return 1024 * sum(int(block) for block in blocks)


@pytest.mark.parametrize("world", [2, 4])
def test_any_order_any_size_any_group(world):
    for wrong, reasons, touched in run_ranks(campaign, world, 7, timeout=100):
        assert wrong == []
        assert set(reasons) == {None}
        assert touched <= 3 * world * (ARENA_BYTES + 2**14)


def one_after_the_other(rank, world):
    x = torch.full((LARGE,), rank + 1.0)
    comm.all_reduce(x[: SLOT_BYTES // 16], name="x")
    within = resident()
    start = comm.all_reduce(x, name="x", async_op=True)
    full = resident()
    start.wait()
    del start
    own = Path("/proc/self/maps").read_text()
    assert "/dev/shm" not in own
    dist.destroy_process_group()
    gc.collect()
    # A new group finds that the old one is gone.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    comm.all_reduce(x[:1], name="x")
    gc.collect()
    return within, full, Path("/proc/self/maps").read_text().count("memfd:mainspring")


def test_memory_is_taken_as_needed_and_given_back():
    for within, full, left in run_ranks(one_after_the_other, 2):
        assert 2**14 < within <= 2 * SLOT_BYTES, "what is not needed is not touched"
        assert full <= 2 * (ARENA_BYTES + 2**14)
        assert left == 0


def same_bits(rank, world):
    torch.manual_seed(rank)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(300_001) * 10).to(dtype)
        for _ in range(2):
            y = x.clone()
            comm.all_reduce(y, name="x")
            results.append(y.view(torch.uint8).numpy().tobytes())
    assert results[0] == results[1] and results[2] == results[3]
    parameter = torch.nn.Parameter(torch.full((5,), float(rank)))
    comm.all_reduce(parameter, name="x")  # in place, beside autograd
    assert parameter.tolist() == [3.0] * 5
    odd = torch.full((4, 6), rank + 1.0)[:, ::2]
    apart = odd.contiguous()
    comm.all_reduce(apart, name="x")
    with torch.inference_mode():
        comm.barrier(name="x")
    return results


def test_every_rank_gets_the_same_bits():
    first, *others = run_ranks(same_bits, 3)
    assert all(other == first for other in others)


def fork_ranks(rank, world, folder, scenario):
    """`world` ranks as forks of this process, so that one may be killed; what each returns or raises."""
    children = []
    for child in range(world):
        pid = os.fork()
        if pid == 0:
            try:
                store = dist.FileStore(f"{folder}/store", world)
                limit = timedelta(seconds=60)
                dist.init_process_group("gloo", store=store, rank=child, world_size=world, timeout=limit)
                try:
                    text = str(globals()[scenario](child))
                except CollectiveError as error:
                    text = f"CollectiveError: {error}"
                Path(folder, str(child)).write_text(text)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children[::-1]:
        os.waitpid(pid, 0)
    return [Path(folder, str(c)).read_text() if Path(folder, str(c)).exists() else None for c in range(world)]


def killed_in_the_middle(rank):
    x = torch.ones(LARGE)
    comm.all_reduce(x, name="first")
    if rank == 2:
        comm.all_reduce(x, name="gradients h.3", async_op=True)  # publishes a part
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    try:
        comm.all_reduce(x, name="gradients h.3")
    except CollectiveError as error:
        try:
            comm.barrier(name="later")
        except CollectiveError as again:
            return f"{time.monotonic() - started:.1f} {error} / {again}"
    return "nothing happened"


def test_a_killed_rank_is_named(tmp_path):
    before = set(Path("/dev/shm").iterdir())
    (answers,) = [run_ranks(fork_from, 1, str(tmp_path), "killed_in_the_middle", 3, init=False)[0]]
    assert answers[2] is None
    for answer in answers[:2]:
        seconds, text = answer.split(" ", 1)
        assert float(seconds) < 5
        assert "all_reduce(sum) 'gradients h.3' of" in text
        # Who sees the death says so; who waits for one that saw it may hear of it from there.
        assert "has died" in text or "has failed" in text
        assert "barrier 'later' cannot start, the group has failed" in text
    assert any("rank 2" in answer and "has died" in answer for answer in answers[:2])
    assert not {name for name in set(Path("/dev/shm").iterdir()) - before if "mainspring" in name.name}


def fork_from(rank, world, folder, scenario, ranks):
    return fork_ranks(rank, ranks, folder, scenario)


def leaves_early(rank):
    x = torch.ones(5)
    comm.all_reduce(x, name="first")
    if rank == 1:
        return "done"
    started = time.monotonic()
    try:
        comm.all_reduce(x, name="second")
    except CollectiveError as error:
        return f"{time.monotonic() - started:.1f} {error}"
    return "nothing happened"


def test_a_rank_that_ended_is_named(tmp_path):
    answers = run_ranks(fork_from, 1, str(tmp_path), "leaves_early", 2, init=False)[0]
    seconds, text = answers[0].split(" ", 1)
    assert float(seconds) < 5 and "rank 1 (process" in text and "number 1, all_reduce(sum) 'first'" in text


def refused(rank, world):
    import platform

    from mainspring.comm import memory

    if rank == 1:
        memory.platform = type("", (), {"machine": staticmethod(lambda: "aarch64")})
    x = torch.full((10,), rank + 1.0)
    comm.all_reduce(x, name="x")
    assert platform.machine() != "aarch64"
    return comm.shared.why_not(), x.tolist()


def test_one_rank_that_cannot_share_sends_all_to_gloo():
    answers = run_ranks(refused, 2)
    assert all(total == [3.0] * 10 for _, total in answers)
    assert "it has no shared memory" in answers[0][0] and "rank 1" in answers[0][0]
    assert "aarch64" in answers[1][0]


def other_things(rank, world):
    """Different collectives at once, without debug mode: never wrong numbers."""
    comm.barrier(name="start")
    x = torch.ones(100 + rank)
    try:
        comm.all_reduce(x, name=f"mine {rank}")
    except CollectiveError as error:
        return str(error)
    return "no error"


def test_a_mismatch_is_an_error_also_without_debug_mode():
    answers = run_ranks(other_things, 2)
    assert "no error" not in answers
    assert any("does something else" in answer and "'mine 1' of 101" in answer for answer in answers)
