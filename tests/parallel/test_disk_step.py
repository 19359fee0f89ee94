"""Optimizers of torch over shards on disk: the same update as in memory, whatever the cut."""

import copy
import errno
import os

import pytest
import torch
from torch import nn

from mainspring.errors import DiskError, PlanError
from mainspring.nn.span import Span, mark
from mainspring.optim import Lamb
from mainspring.parallel.disk import DiskPlacement, Traffic
from mainspring.parallel.zero.placement import Shard

STRETCH = 2**19
"""Elements that are stepped at once, with buffers of 2 MiB."""
SIZES = {"small": [70, 1, 1000], "long": [5, STRETCH - 6, 2, STRETCH + 77], "tiny": [3]}

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, foreach=False),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, centered=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2),
    "lamb": lambda p: Lamb(p, lr=1e-2, weight_decay=0.1, join=lambda parameters, rows: None),
}


def make_shard(name, sizes, compute_dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(sum(sizes) + 2, generator=generator)  # two of padding
    places, pieces, start = [], [], 0
    for size in sizes:
        places.append(slice(start, start + size))
        pieces.append(nn.Parameter(flat[start : start + size]))
        pieces[-1].grad_dtype = None
        mark(pieces[-1], Span(torch.Size((size,)), 0, size))
        start += size
    names = [f"{name}.{i}" for i in range(len(sizes))]
    return Shard(
        name,
        name,
        names,
        pieces,
        places,
        0,
        len(flat),
        True,
        torch.float32,
        compute_dtype,
        torch.device("cpu"),
        flat,
    )


class Twin:
    """Shards on disk, and plain parameters with the same values beside them."""

    def __init__(self, folder, make, sizes=SIZES, compute_dtype=torch.float32, **options):
        self.shards = [make_shard(n, s, compute_dtype, seed=i) for i, (n, s) in enumerate(sizes.items())]
        self.plain = [nn.Parameter(p.detach().clone()) for s in self.shards for p in s.pieces]
        self.pieces = [p for s in self.shards for p in s.pieces]
        self.disk = DiskPlacement(folder, **options)
        for shard in self.shards:
            self.disk.adopt(shard)
        self.mine, self.other = make(self._groups(self.pieces)), make(self._groups(self.plain))

    @staticmethod
    def _groups(parameters):
        return [{"params": parameters[::2]}, {"params": parameters[1::2], "lr": 3e-2}]

    def gradients(self, seed, without=(), dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        number = 0
        for shard in self.shards:
            base = torch.randn(shard.numel, generator=generator).to(dtype)
            for piece, place in zip(shard.pieces, shard.places, strict=True):
                used = number not in without
                piece.grad = base[place] if used else None
                self.plain[number].grad = base[place].float() if used else None
                number += 1

    def step(self):
        kept = [p.grad for p in self.pieces]
        self.disk.before_step(self.shards, self.mine)
        self.mine.step()  # finds nothing to do
        self.disk.after_step(self.shards, self.mine)
        assert all(p.grad is g for p, g in zip(self.pieces, kept, strict=True))
        self.other.step()

    def masters(self):
        found = []
        for shard in self.shards:
            with self.disk.opened(shard, write=False):
                assert shard.attached
                found += [p.detach().clone() for p in shard.pieces]
            assert all(p.isnan().all() for p in shard.pieces)  # away again, and no one can miss it
        return found

    def agree(self):
        for mine, want in zip(self.masters(), self.plain, strict=True):
            torch.testing.assert_close(mine, want.detach(), rtol=1e-6, atol=1e-7)


@pytest.fixture
def twin(tmp_path):
    made = []

    def make(kind="adamw", **options):
        made.append(Twin(tmp_path, OPTIMIZERS[kind], **options))
        return made[-1]

    yield make
    for one in made:
        one.disk.close()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_same_update_as_in_memory(twin, kind):
    pair = twin(kind)
    before = pair.masters()
    for step in range(3):
        pair.gradients(step)
        for group in (*pair.mine.param_groups, *pair.other.param_groups):
            group["lr"] *= 0.9  # as a schedule does
        pair.step()
    pair.agree()
    assert all((a != b).float().mean() > 0.99 for a, b in zip(before, pair.masters(), strict=True))


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_pieces_without_a_gradient_are_left_alone(twin, kind):
    pair = twin(kind)
    for step, without in enumerate([{0, 4, 5}, {1, 4}, {}, {0, 1, 2, 3, 4, 5, 6, 7}]):
        pair.gradients(step, without)
        pair.step()
        pair.agree()


def test_gradients_in_16_bits_are_cast_for_the_step(twin):
    pair = twin("adamw-fused", compute_dtype=torch.bfloat16)
    for step in range(2):
        pair.gradients(step, dtype=torch.bfloat16)
        pair.step()
    pair.agree()


@pytest.mark.parametrize("copied", [False, True])
def test_parameters_in_16_bits_follow(twin, copied):
    """They are on disk, or where the engine keeps them."""
    pair = twin(compute_dtype=torch.bfloat16)
    for shard in pair.shards:
        shard.copy = torch.zeros(shard.numel, dtype=torch.bfloat16) if copied else None
    for step in range(2):
        pair.gradients(step)
        pair.step()
        for shard in pair.shards:
            out = torch.zeros(shard.numel, dtype=torch.bfloat16)
            pair.disk.before_gather(shard, out)
            with pair.disk.opened(shard, write=False):
                assert torch.equal(out, shard.flat.bfloat16())
            assert shard.copied == copied and (not copied or torch.equal(shard.copy, out))


def test_an_update_of_ones_own_is_kept(twin):
    pair = twin()
    pair.gradients(0)
    pair.step()
    for shard in pair.shards:
        with pair.disk.opened(shard, pair.mine):
            for piece in shard.pieces:
                piece.data.mul_(2)
                pair.mine.state[piece]["exp_avg"].zero_()
    for parameter in pair.plain:
        parameter.data.mul_(2)
        pair.other.state[parameter]["exp_avg"].zero_()
    pair.gradients(1)
    pair.step()
    pair.agree()


def test_state_dict_is_that_of_memory_and_goes_back_in(twin):
    pair, again = twin(), twin()
    for step in range(2):
        pair.gradients(step)
        pair.step()
    content, want = pair.mine.state_dict(), pair.other.state_dict()
    assert content["param_groups"] == want["param_groups"]
    assert content["state"].keys() == want["state"].keys()
    for number, state in want["state"].items():
        assert content["state"][number].keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(content["state"][number][key], value, rtol=1e-6, atol=1e-7)
    # Into a fresh pair with the same masters; the next steps agree with memory's.
    for shard, source in zip(again.shards, pair.shards, strict=True):
        with again.disk.opened(shard), pair.disk.opened(source, write=False):
            shard.flat.copy_(source.flat)
    again.plain, again.other = pair.plain, pair.other
    again.mine.load_state_dict(copy.deepcopy(content))
    again.disk.absorb(again.mine)
    rows = [v for s in again.mine.state.values() for v in s.values() if v.dim()]
    assert rows and all(v.stride() == (0,) for v in rows)  # memory is free again
    again.gradients(2)
    again.step()
    again.agree()


def test_options_of_groups_are_those_of_the_user_after_a_step(twin):
    pair = twin()
    groups = pair.mine.param_groups
    pair.gradients(0)
    pair.step()
    assert pair.mine.param_groups is groups
    assert [len(g["params"]) for g in groups] == [4, 4]


class Normed(torch.optim.SGD):
    """An update that needs the whole parameter."""


def test_an_optimizer_that_needs_whole_parameters_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"Normed may need a whole parameter.*elementwise = True"):
        Twin(tmp_path, lambda p: Normed(p, lr=1.0)).step()
    Normed.elementwise = True
    try:
        pair = Twin(tmp_path, lambda p: Normed(p, lr=1.0))
        pair.gradients(0)
        pair.step()
        pair.agree()
    finally:
        del Normed.elementwise


def test_buffers_are_bounded_and_come_back(twin):
    """Eight buffers are enough for any size; none is lost."""
    pair = twin(buffers=8)
    for step in range(2):
        pair.gradients(step)
        pair.step()
    pair.disk.store.flush()
    pair.disk.prefetcher.drop()
    assert pair.disk.arena.free == 8
    pair.agree()


def test_lambs_ratios_are_of_whole_parameters_and_it_reads_twice(twin):
    """A parameter of several stretches steps as far as all of it says; each pass writes what it has made."""
    pair = twin("lamb", compute_dtype=torch.bfloat16)
    store, elements = pair.disk.store, sum(shard.numel for shard in pair.shards)
    want = Traffic.of(elements, gathers=1, passes=2)
    padding = len(pair.shards) * 8 * 4096
    for step in range(3):
        store.flush()
        read, written = store.bytes_read, store.bytes_written
        pair.gradients(step, dtype=torch.bfloat16)
        pair.step()
        store.flush()
    assert 0 <= store.bytes_read - read - want.step_read <= padding
    assert 0 <= store.bytes_written - written - want.step_written <= padding
    pair.agree()
    content, other = pair.mine.state_dict()["state"], pair.other.state_dict()["state"]
    for number, state in other.items():
        assert int(content[number]["step"]) == 3
        torch.testing.assert_close(content[number]["exp_avg_sq"], state["exp_avg_sq"])


def test_lamb_without_sums_over_ranks_ends_the_step_and_says_so(tmp_path):
    pair = Twin(tmp_path, lambda p: Lamb(p, lr=1.0))
    pair.gradients(0)
    with pytest.raises(ValueError, match="give it join="):
        pair.step()
    with pytest.raises(DiskError, match="give it join="):
        pair.masters()
    pair.disk.close()


def test_too_few_buffers_are_refused(twin):
    pair = twin(buffers=2)
    pair.gradients(0)
    with pytest.raises(PlanError, match="needs 5 buffers at once and the disk tier has 2"):
        pair.step()


def test_a_step_that_fails_leaves_nothing_usable(twin, monkeypatch):
    """Some stretches are a step ahead of others then: no forward, step or save may go on from there."""
    pair = twin()
    pair.gradients(0)
    pair.step()
    pair.disk.store.flush()
    plain, calls = os.pwritev, []

    def full(file, buffers, offset):
        calls.append(offset)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(file, buffers, offset)

    monkeypatch.setattr(os, "pwritev", full)
    pair.gradients(1)
    with pytest.raises(DiskError, match="No space left on device"):
        pair.step()
        pair.disk.store.flush()
    monkeypatch.setattr(os, "pwritev", plain)
    shard = pair.shards[0]
    for act in (
        lambda: pair.step(),
        lambda: pair.disk.before_gather(shard, torch.empty(shard.numel)),
        lambda: pair.mine.state_dict(),
        lambda: pair.masters(),
    ):
        with pytest.raises(DiskError, match=r"No space left.*free space.*resumes from its last checkpoint"):
            act()


def test_an_error_of_the_optimizer_in_mid_step_ends_it_too(twin):
    pair = twin()
    pair.gradients(0)
    pair.mine.param_groups[1]["lr"] = "no number"
    with pytest.raises(TypeError):
        pair.step()
    with pytest.raises(DiskError, match="no number|TypeError|multiply|unsupported"):
        pair.masters()


def test_parameters_are_read_ahead_in_the_order_of_last_time(twin):
    pair = twin()
    order = [0, 1, 2, 2, 1, 0]

    def walk(numbers):
        for number in numbers:
            shard = pair.shards[number]
            out = torch.zeros(shard.numel)
            pair.disk.before_gather(shard, out)
            with pair.disk._stepper.opened(shard, write=False):
                assert torch.equal(out, shard.flat)

    walk(order)
    reader = pair.disk.prefetcher
    first = reader.misses
    assert first >= 5 and reader.hits <= 1
    walk(order * 2)
    assert reader.misses <= first + 2 and reader.hits >= 10
    before = reader.misses
    walk([2, 0, 1, 0, 2, 1])  # another order: slower once, right always
    assert reader.misses > before
    pair.gradients(0)
    pair.step()
    walk(order)  # what was read ahead before the step is not used after it


def test_a_hint_starts_a_read(twin):
    pair = twin()
    shard = pair.shards[0]
    pair.disk.prefetch(shard)
    out = torch.zeros(shard.numel)
    pair.disk.before_gather(shard, out)
    assert pair.disk.prefetcher.hits == 1 and pair.disk.prefetcher.misses == 0
    assert torch.equal(out[: SIZES["small"][0]], pair.plain[0])
