"""Joining the ranks that torchrun started, or standing alone."""

import pytest
import torch
import torch.distributed as dist

from mainspring.errors import PlanError
from mainspring.parallel import Plan, World
from mainspring.parallel.world import usable_cores
from support.spawn import run_ranks


def join(rank, world):
    with World.start(Plan(data=world, zero=2), device="cpu") as here:
        total = torch.tensor(1)
        dist.all_reduce(total)
        here.barrier()
        seen = (
            here.rank,
            here.size,
            here.local_rank,
            here.local_size,
            here.backend,
            here.is_main,
            int(total),
            str(here.device),
            torch.get_num_threads(),
        )
    return seen, dist.is_initialized()


def refuse(rank, world):
    try:
        World.start(Plan(data=5))
    except PlanError as error:
        return str(error), dist.is_initialized()
    return "", True


def adopt(rank, world):
    here = World.start(threads=1)
    here.stop()
    return here.size, here.owns_group, dist.is_initialized()


@pytest.mark.distributed
def test_joins_as_torchrun_says():
    threads = max(1, usable_cores() // 2)
    for rank, (seen, left) in enumerate(run_ranks(join, 2, init=False)):
        assert seen == (rank, 2, rank, 2, "gloo", rank == 0, 2, "cpu", threads)
        assert not left


@pytest.mark.distributed
def test_another_number_of_ranks_is_refused_before_anything_starts():
    for message, started in run_ranks(refuse, 2, init=False):
        assert "over 5 ranks" in message and "2 are started" in message and "--nproc-per-node=5" in message
        assert not started


@pytest.mark.distributed
def test_a_group_that_is_there_is_used_and_left_alone():
    assert run_ranks(adopt, 2) == [(2, False, True)] * 2


def test_one_process_needs_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    try:
        world = World.start(Plan(), device="cpu", threads=1)
        assert (world.rank, world.size, world.backend, world.is_main) == (0, 1, None, True)
        assert torch.get_num_threads() == 1
        world.barrier()
        world.stop()
        with pytest.raises(PlanError, match=r"data=2.*1 is started"):
            World.start(Plan(data=2), device="cpu")
        with pytest.raises(PlanError, match="'cpu' or 'cuda'"):
            World.start(device="meta")
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(PlanError, match="there are 0"):
        World.start(device="cuda")
