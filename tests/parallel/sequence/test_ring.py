"""What a ring works on: all that is seen, little else, and as much on every rank where rows lie in zigzag."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.data.batch import causal_batch
from mainspring.nn.masks import allow
from mainspring.parallel.sequence import ring, split_tokens


def worked_on(mask):
    """Which pairs of query and key are computed, bool [T, S]."""
    q = torch.zeros(1, 1, mask.shape[2], 1)
    found = torch.zeros(mask.shape[2:], dtype=torch.int64)
    for rows, keys in ring._chunks(q, mask.shape[3], ring.reach_of(mask)):
        found[rows, keys] += 1
    assert int(found.max()) <= 1, "a pair is computed twice"
    return found.bool()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([0.02, 0.3, 0.95]))
def test_all_that_is_seen_is_computed(queries, keys, seed, share):
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand((2, 3, queries, keys), generator=draw) < share
    seen = mask.flatten(0, 1).any(0)
    computed = worked_on(mask)
    assert bool((computed | ~seen).all())
    added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    assert torch.equal(worked_on(added), computed)


@pytest.mark.parametrize("size", [2, 4])
def test_a_zigzag_gives_every_rank_as_much_in_every_round(size):
    rows = causal_batch(torch.arange(size * 64)[None])
    shares = [split_tokens(rows, index, size, zigzag=True) for index in range(size)]
    work = [[int(worked_on(allow(query, key)).sum()) for key in shares] for query in shares]
    by_round = [[work[index][(index - turn) % size] for index in range(size)] for turn in range(size)]
    for round_ in by_round:
        assert len(set(round_)) == 1, by_round
    # Of a share's 64 x 64 pairs half in the rounds between ranks, three quarters in a rank's own.
    assert [round_[0] / 64**2 for round_ in by_round] == [0.75] + [0.5] * (size - 1)
    whole = torch.cat([share.ids for share in shares], 1)
    assert sorted(whole[0].tolist()) == list(range(size * 64))


def test_rows_are_lengthened_to_pieces_of_a_zigzag():
    batch = causal_batch(torch.arange(5)[None])
    shares = [split_tokens(batch, index, 2, zigzag=True) for index in range(2)]
    assert [share.pos.tolist() for share in shares] == [[[0, 1, 4, 4]], [[2, 3, 4, 4]]]
    assert [share.valid.tolist() for share in shares] == [
        [[True, True, False, False]], [[True, True, True, False]]
    ]  # fmt: skip
