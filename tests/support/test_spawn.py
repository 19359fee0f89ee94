"""The helper that starts ranks: results in order, failures told, late ranks ended."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from support.spawn import RankFailure, run_ranks

pytestmark = pytest.mark.distributed


def add_ranks(rank, world, start):
    total = torch.tensor(float(rank + start))
    dist.all_reduce(total)
    return rank, total.item(), os.environ["RANK"], torch.get_num_threads()


def fail_on_one(rank, world):
    if rank == 1:
        raise ValueError("the reason")
    time.sleep(30)


def die_on_one(rank, world):
    if rank == 1:
        os._exit(3)
    time.sleep(30)


def sleep_long(rank, world):
    time.sleep(30)


def test_results_come_in_rank_order():
    assert run_ranks(add_ranks, 2, 10) == [(0, 21.0, "0", 1), (1, 21.0, "1", 1)]


@pytest.mark.parametrize(("fn", "message"), [(fail_on_one, "the reason"), (die_on_one, "rank 1 died")])
def test_a_failing_rank_is_named_and_the_others_end(fn, message):
    before = time.monotonic()
    with pytest.raises(RankFailure, match=message):
        run_ranks(fn, 2, init=False)
    assert time.monotonic() - before < 20


def test_a_late_rank_is_named():
    with pytest.raises(RankFailure, match=r"ranks \[0, 1\] of 2"):
        run_ranks(sleep_long, 2, timeout=2.0, init=False)
