"""Adasum: its algebra, and its tree on any number of ranks."""

import pytest
import torch
import torch.distributed as dist

from mainspring import comm
from mainspring.comm.adasum import Adasum, coefficients
from support.spawn import run_ranks

LAYERS = [7, 0, 50, 1, 20]


def pair(a, b):
    x, y = coefficients(float(a @ b), float(a @ a), float(b @ b))
    return x * a + y * b


def tree(vectors):
    """Neighbours first; who has none goes up a level."""
    if len(vectors) == 1:
        return vectors[0]
    joined = [pair(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=False)]
    return tree(joined + vectors[2 * len(joined) :])


def test_algebra():
    torch.manual_seed(0)
    a, b = torch.randn(2, 20, dtype=torch.float64)
    close = torch.testing.assert_close
    close(pair(a, a), a)
    close(pair(a, 2 * a), 1.5 * a)
    close(pair(a, -a), torch.zeros_like(a))
    close(pair(a, b), pair(b, a))
    close(pair(3 * a, 3 * b), 3 * pair(a, b))
    apart = b - (a @ b) / (a @ a) * a
    close(pair(a, apart), a + apart)
    close(pair(a, torch.zeros_like(a)), a)
    turn = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    close(pair(turn @ a, turn @ b), turn @ pair(a, b))
    same, across = tree([a] * 8), tree(list(torch.eye(8, dtype=torch.float64)))
    assert float(same.norm()) == pytest.approx(float(a.norm()))
    assert float(across.norm()) == pytest.approx(8**0.5)


def join(rank, world, shared):
    if not shared:
        comm.shared.disable()
    counter = comm.Counter()
    everyone = torch.randn(world, sum(LAYERS), generator=torch.Generator().manual_seed(world))
    mine = everyone[rank].clone()
    Adasum(LAYERS, group=dist.group.WORLD, counter=counter)(mine)
    want = [tree(list(part.double())) for part in everyone.split(LAYERS, dim=1)]
    torch.testing.assert_close(mine.double(), torch.cat(want), rtol=1e-5, atol=1e-6)
    others = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(others, mine)
    assert all(torch.equal(mine, other) for other in others)
    levels = sum(t.calls for (_, op), t in counter.records.items() if op == "all_reduce")
    moved = sum(t.wire for (_, op), t in counter.records.items() if op != "all_reduce")
    return levels, moved


@pytest.mark.distributed
@pytest.mark.parametrize(("world", "shared"), [(2, True), (3, False), (4, True), (5, True)])
def test_ranks_join_as_the_tree_says(world, shared):
    each = -(-sum(LAYERS) // world)
    for levels, moved in run_ranks(join, world, shared):
        assert levels == {2: 1, 3: 2, 4: 2, 5: 3}[world]
        assert moved == 2 * (world - 1) * each * 4  # an all-reduce's
