"""Debug mode names the first difference between ranks; a stuck collective names who is late. Through shared
memory and over gloo."""

import time

import pytest
import torch
import torch.distributed as dist

from mainspring import comm
from mainspring.errors import CollectiveError
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed


def different(rank, world, path, case):
    if path == "gloo":
        comm.shared.disable()
    comm.debug.enable(timeout=20)
    x, y = torch.ones(8), torch.empty(8 // world)
    comm.all_reduce(x, name="losses")
    comm.all_gather(x, y.fill_(1.0), name="gather h.3 forward")[0].wait()
    assert x.tolist() == [1.0] * 8
    try:
        if case == "name":
            comm.all_reduce(x, name=["gather h.3 forward", "gather h.4 forward"][rank])
        elif case == "kind" and rank == 0:
            comm.reduce_scatter(y, x, name="h.3 backward")
        elif case == "dtype" and rank == 0:
            comm.all_gather(x.bfloat16(), y.bfloat16(), name="h.3 backward")
        else:
            comm.all_gather(x, y, name="h.3 backward")
    except CollectiveError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize("path", ["shared", "gloo"])
@pytest.mark.parametrize("case", ["name", "kind", "dtype"])
def test_the_first_difference_is_the_error_of_all_ranks(path, case):
    first, second = run_ranks(different, 2, path, case)
    assert first == second
    parts = {
        "name": ("all_reduce(sum) 'gather h.3 forward' of 8", "all_reduce(sum) 'gather h.4 forward'"),
        "kind": ("reduce_scatter(sum) 'h.3 backward'", "all_gather 'h.3 backward'"),
        "dtype": ("'h.3 backward' of 8 bfloat16", "'h.3 backward' of 8 float32"),
    }[case]
    assert f"rank 0 is in number 3: {parts[0]}" in first or parts[0] in first.split("; ")[0]
    assert "rank 1 is in number 3: " in first and parts[1] in first.split("; ")[1]


def stuck(rank, world, path, debug):
    if path == "gloo":
        comm.shared.disable()
    if debug:
        comm.debug.enable()
    comm.debug.set_timeout(1.5)
    x = torch.ones(100)
    comm.all_reduce(x, name="reduce h.7 backward")
    if rank == 1:
        time.sleep(2.5)
        return "slept", 0.0
    started = time.monotonic()
    try:
        comm.reduce_scatter(torch.empty(50), x, name="reduce h.6 backward").wait()
    except CollectiveError as error:
        return str(error), time.monotonic() - started
    return "no error", 0.0


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("path", ["shared", "gloo"])
def test_a_late_rank_is_named_in_time(path, debug):
    (text, seconds), _ = run_ranks(stuck, 2, path, debug)
    assert 1.4 < seconds < 2.4
    assert "reduce_scatter(sum) 'reduce h.6 backward' of 100 float32" in text
    assert "rank 1 is late" in text
    assert "number 1, all_reduce(sum) 'reduce h.7 backward' of 100 float32" in text
    assert "this rank is in number 2" in text


def off_again(rank, world):
    comm.debug.enable()
    comm.barrier(name="x")
    comm.debug.disable()
    x = torch.tensor([rank])
    comm.all_reduce(x, name=f"rank {rank}")  # names differ: fine without debug mode
    return x.item()


def test_debug_mode_can_be_left():
    assert run_ranks(off_again, 2) == [1, 1]


def elsewhere(rank, world):
    """Rank 1 has gone on to another group, in which it waits for rank 0."""
    both, again = dist.new_group([0, 1]), dist.new_group([0, 1])
    x = torch.ones(3)
    for group in (both, again):
        comm.all_reduce(x, name="start", group=group)
        comm.debug.set_timeout(1.0, group)
    try:
        comm.all_reduce(x, name=["gather h.1", "reduce h.2"][rank], group=[both, again][rank])
    except CollectiveError as error:
        try:
            comm.barrier(name="after", group=[both, again][rank])
        except CollectiveError as after:
            return str(error), str(after)
    return "no error", ""


def test_ranks_in_different_groups_are_both_named():
    answers = run_ranks(elsewhere, 2)
    for rank, ((text, after), name, there) in enumerate(
        zip(answers, ["gather h.1", "reduce h.2"], ["reduce h.2", "gather h.1"], strict=True)
    ):
        assert f"'{name}'" in text and f"rank {1 - rank}" in text
        assert "'start'" in text and "since, in another group, " in text and f"'{there}'" in text
        assert "cannot start, the group has failed" in after


def different_windows(rank, world):
    comm.debug.enable(timeout=20)
    windows = [comm.shared.window(5, torch.float32, name=name) for name in ("h.0", "h.1")]
    try:
        windows[rank].publish()
    except CollectiveError as error:
        return str(error)
    return "no error"


def test_windows_are_compared():
    first, second = run_ranks(different_windows, 2)
    assert first == second and "publish of window 'h.0'" in first and "publish of window 'h.1'" in first
