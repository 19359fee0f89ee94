"""Windows: what one rank publishes the others read, in rounds, without its help."""

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mainspring import comm
from mainspring.errors import CollectiveError
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed


def rounds(rank, world):
    wrong = []
    window = comm.shared.window(1000 + rank, torch.bfloat16, name="gradients")
    assert window is not None and window.local.shape == (1000 + rank,) and not window.local.any()
    out, wide = torch.empty(100, dtype=torch.bfloat16), torch.empty(100)
    for turn in range(20):
        contents = [
            torch.randn(1000, generator=torch.Generator().manual_seed(10 * turn + r)).bfloat16()
            for r in range(world)
        ]
        window.acquire()
        window.local[:1000].copy_(contents[rank])
        window.publish()
        for source in range(world):
            window.read(source, 500, 600, out)
            if not torch.equal(out, contents[source][500:600]):
                wrong.append((turn, source))
        part = slice(100 * rank, 100 * rank + 100)
        exact = sum(c[part].float() for c in contents[1:]) + contents[0][part].float()
        window.reduce(part.start, part.stop, wide)
        window.reduce(part.start, part.stop, out)
        if not torch.allclose(wide, exact, rtol=1e-6) or not torch.equal(out, wide.bfloat16()):
            wrong.append((turn, "sum"))
        window.reduce(part.start, part.stop, wide, "mean")
        if not torch.allclose(wide, exact / world, rtol=1e-6):
            wrong.append((turn, "mean"))
        window.release()
    try:
        window.read(0, 0, 100, out)
        wrong.append("read outside a round")
    except CollectiveError as error:
        assert "publish first" in str(error)
    return wrong


@pytest.mark.parametrize("world", [2, 3])
def test_rounds(world):
    assert run_ranks(rounds, world) == [[]] * world


def one_sided(rank, world):
    """Rank 1 reads while rank 0 is elsewhere; rank 0 may not write before rank 1 is done."""
    window = comm.shared.window(4 if rank == 0 else 0, torch.float32, name="w")
    if rank == 0:
        window.local.fill_(7)
    window.publish()
    dist.barrier()
    out = torch.empty(4)
    if rank == 1:
        assert window.ready(0)
        window.read(0, 0, 4, out)
        time.sleep(0.3)
        window.release()
        return out.tolist()
    window.release()
    began = time.monotonic()
    window.acquire()
    return time.monotonic() - began


def test_the_owner_waits_for_its_readers():
    waited, read = run_ranks(one_sided, 2)
    assert waited > 0.2 and read == [7.0] * 4


def without(rank, world):
    comm.shared.disable(reason="a test")
    return comm.shared.window(5, torch.float32, name="w"), comm.shared.why_not()


def test_no_window_without_shared_memory():
    assert run_ranks(without, 2) == [(None, "a test")] * 2


def late(rank, world):
    comm.debug.set_timeout(0.5)
    window = comm.shared.window(5, torch.float32, name="weights h.0")
    if rank == 1:
        return ""
    window.publish()
    try:
        window.read(1, 0, 5, torch.empty(5))
    except CollectiveError as error:
        return str(error)
    return "no error"


def test_a_rank_that_does_not_publish_is_named():
    text = run_ranks(late, 2)[0]
    assert "reading window 'weights h.0' of rank 1" in text and "rank 1" in text


def shared_bytes():
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("RssShmem"))


def forgotten(rank, world):
    size = 1 << 21
    window = comm.shared.window(size, torch.float32, name="w")
    window.local.fill_(rank)
    window.publish()
    out, other = torch.empty(size), 1 - rank
    window.read(other, 0, size, out)
    before = shared_bytes()
    window.forget(other, 0, size)
    given = before - shared_bytes()
    window.read(other, size - 5, size, out[:5])
    window.release()
    return given / (4 * size), out[:5].tolist()


def test_pages_of_another_rank_are_given_back_and_can_be_read_again():
    for rank, (share, values) in enumerate(run_ranks(forgotten, 2)):
        assert share > 0.95 and values == [1.0 - rank] * 5
