"""The compressed mean on 2, 3 and 4 ranks is that of one process; nothing is lost; its bytes are counted."""

import pytest
import torch
import torch.distributed as dist

from mainspring import comm
from mainspring.comm.compressed import CompressedMean, even_chunks
from mainspring.numerics.signs import message_bytes
from support.onebit import Mean
from support.spawn import run_ranks

STEPS = 6
RUNS = [5, 1, 300, 64, 13]


def exchange(rank, world, shared, runs=RUNS):
    if not shared:
        comm.shared.disable()
    total, counter = sum(runs), comm.Counter()
    found = {}
    for layout, chunks in (
        ("even", even_chunks(runs, world)),
        ("uneven", [runs, *[[]] * (world - 1)]),  # one rank serves everything
    ):
        mean, oracle = CompressedMean(chunks, group=dist.group.WORLD, counter=counter), Mean(chunks)
        inputs = torch.zeros(total, dtype=torch.float64)
        outputs = torch.zeros(total, dtype=torch.float64)
        for step in range(STEPS):
            everyone = torch.randn(world, total, generator=torch.Generator().manual_seed(step))
            buffer = everyone[rank].clone()
            with counter.measure() as seen:
                mean(buffer, name="momentum")
            assert seen.wire("momentum") == mean.wire_bytes and seen.calls("momentum") == 2
            torch.testing.assert_close(buffer.double(), oracle(everyone), rtol=1e-4, atol=1e-5)
            same = [torch.empty_like(buffer) for _ in range(world)]
            dist.all_gather(same, buffer)
            assert all(torch.equal(buffer, other) for other in same), "ranks differ"
            inputs += everyone.double().mean(0)
            outputs += buffer.double()
            if step == 2:  # what is owed in common is all that was owed
                owed = mean.share()
                torch.testing.assert_close(owed.double(), oracle.owed, rtol=1e-4, atol=1e-5)
                assert not mean.worker_error.any()
                oracle.share()
        owed = mean.share().double()
        torch.testing.assert_close(outputs + owed, inputs, rtol=1e-5, atol=1e-5)
        found[layout] = mean.wire_bytes
    return found


@pytest.mark.distributed
@pytest.mark.parametrize(("world", "shared"), [(2, True), (3, True), (3, False), (4, True)])
def test_ranks_do_what_one_process_does(world, shared):
    for rank, found in enumerate(run_ranks(exchange, world, shared)):
        lengths = [message_bytes(runs) for runs in even_chunks(RUNS, world)]
        sent = sum(lengths) - lengths[rank] + (world - 1) * max(lengths)
        assert found["even"] == sent
        whole = message_bytes(RUNS)
        assert found["uneven"] == (whole if rank else 0) + (world - 1) * whole


def test_one_process_goes_through_both_stages():
    mean, oracle = CompressedMean([[4, 3]]), Mean([[4, 3]])
    for step in range(4):
        values = torch.randn(7, generator=torch.Generator().manual_seed(step))
        got = values.clone()
        mean(got, name="momentum")
        torch.testing.assert_close(got.double(), oracle(values[None]), rtol=1e-5, atol=1e-6)


def test_a_constant_arrives_ever_more_exactly():
    """Errors are bounded, so that the mean over T steps errs ever less."""
    values = torch.randn(512, generator=torch.Generator().manual_seed(0))
    far = {}
    for steps in (100, 1000):
        mean, total = CompressedMean([[512]]), torch.zeros(512, dtype=torch.float64)
        for _ in range(steps):
            buffer = values.clone()
            mean(buffer, name="momentum")
            total += buffer
        far[steps] = float((total / steps - values).norm() / values.norm())
    assert far[1000] < far[100] / 3


def test_what_is_owed_goes_to_any_number_of_ranks():
    mean = CompressedMean([[10]])
    mean(torch.linspace(-1, 2, 10), name="momentum")
    owed = mean.share().clone()
    other = CompressedMean([[10]])
    other.restore(owed)
    assert torch.equal(other.server_error, owed) and not other.worker_error.any()
    other.reset()
    assert not other.server_error.any()


def test_bytes_of_a_long_buffer_are_a_thirty_second_of_fp32():
    total, world = 2**20, 4
    chunks = even_chunks([total], world)
    length = message_bytes(chunks[0])
    assert length == total // world // 8 + 4
    compressed = 2 * (world - 1) * length
    exact = 2 * (world - 1) / world * 4 * total
    assert exact / compressed == pytest.approx(32, rel=2e-4)
    # The published count: a run whose first 15 % go at 16 bits and the rest at 1.
    assert pytest.approx(4.92, abs=0.005) == 1 / (0.15 + 0.85 / 16)
