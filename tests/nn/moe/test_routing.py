"""Choosing, dropping, weighing and the losses, beside brute force and closed forms."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from mainspring.nn.moe.routing import (
    assign,
    balance_loss,
    capacity,
    choose,
    gumbel,
    priorities,
    weigh,
    z_loss,
)

from .reference import balance, combine_tensor


def drawn(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("tokens", "experts", "factor", "k", "least", "room"),
    [(64, 8, 1.0, 2, 4, 16), (10, 8, 1.0, 1, 4, 4), (100, 8, 1.25, 1, 4, 16), (110, 10, 1.1, 10, 4, 121),
     (10, 8, None, 1, 4, None)],
)  # fmt: skip
def test_capacity(tokens, experts, factor, k, least, room):
    assert capacity(tokens, experts, factor, k, least) == room


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("room", [None, 1, 3, 100])
@pytest.mark.parametrize("padded", [False, True])
def test_assignment_is_first_come_first_served(k, room, padded):
    tokens, count = 23, 5
    logits = torch.randn(tokens, count, generator=drawn(k))
    experts, probabilities = choose(logits, k), logits.softmax(1)
    if padded:
        experts[::4] = count
    result = assign(experts, count, room)
    token, weight = weigh(probabilities, experts, result, renormalise=True)
    got = torch.zeros(tokens, count)
    owner = torch.arange(count).repeat_interleave(result.counts)
    got.index_put_((token, owner), weight, accumulate=True)
    want = combine_tensor(probabilities, experts, room).sum(2)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    assert room is None or int(result.counts.max()) <= room
    assert int((want > 0).sum()) == len(result.order)


def test_nothing_to_route():
    result = assign(torch.full((6, 2), 4), 4, 3)
    assert len(result.order) == 0 and result.counts.tolist() == [0] * 4


def test_second_choices_come_after_all_first_ones():
    experts = torch.tensor([[0, 1], [1, 0], [0, 1]])
    kept = assign(experts, 2, 2).order
    assert sorted(kept.tolist()) == [0, 1, 2, 3]  # expert 1 by token 1, then by token 0


def test_ranking_by_probability_survives_negative_logits():
    """DeepSpeed's top-k gate ranks logits with 0 for tokens that did not ask: of 128 choices, 4 were kept."""
    logits = torch.randn(64, 8, generator=drawn(0)) - 3
    experts, probabilities = choose(logits, 2), logits.softmax(1)
    room = capacity(64, 8, 1.0, 2, 4)
    result = assign(experts, 8, room, priorities("probability", experts, probabilities))
    asked = torch.bincount(experts.flatten(), minlength=8)
    assert len(result.order) == int(asked.clamp(max=room).sum()) > 100
    chosen = probabilities.gather(1, experts).t().flatten()
    flat = experts.t().flatten()
    for expert in range(8):
        mine = chosen[flat == expert].sort(descending=True).values[:room]
        kept = chosen[result.order[flat[result.order] == expert]]
        assert torch.equal(kept.sort(descending=True).values, mine)


@pytest.mark.parametrize("keep", ["random", "first", "probability"])
def test_without_dropping_every_choice_has_its_place(keep):
    """DeepSpeed's top-k gate leaves places undefined where nothing is dropped."""
    logits = torch.randn(64, 8, generator=drawn(1)) - 3
    experts, probabilities = choose(logits, 3), logits.softmax(1)
    result = assign(experts, 8, None, priorities(keep, experts, probabilities, drawn(2)))
    assert sorted(result.order.tolist()) == list(range(3 * 64))
    token, weight = weigh(probabilities, experts, result, renormalise=True)
    totals = torch.zeros(64).index_add_(0, token, weight)
    torch.testing.assert_close(totals, torch.ones(64))


def test_random_selection_is_fair_and_seeded():
    experts, probabilities = torch.zeros(40, 1, dtype=torch.long), torch.ones(40, 1)
    kept = torch.zeros(40)
    for seed in range(400):
        order = priorities("random", experts, probabilities, drawn(seed))
        kept[assign(experts, 1, 10, order).order] += 1
    assert kept.sum() == 4000
    assert ((kept - 100).abs() < 5 * math.sqrt(400 * 0.25 * 0.75)).all()
    same = [priorities("random", experts, probabilities, drawn(7)) for _ in range(2)]
    assert torch.equal(*same)


def test_random_selection_keeps_first_choices_before_second_ones():
    experts = torch.tensor([[0, 1]] * 8)
    experts[4:] = torch.tensor([1, 0])
    for seed in range(20):
        order = priorities("random", experts, torch.ones(8, 2), drawn(seed))
        assert set(assign(experts, 2, 4, order).order.tolist()) == set(range(8))


def test_noise_draws_the_only_choice_from_the_softmax():
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(40000, 3)
    shares = one_hot(choose(logits, 1, gumbel(logits, drawn(0)))[:, 0], 3).float().mean(0)
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.01, rtol=0)


def test_noise_leaves_the_first_of_several_choices():
    logits = torch.randn(500, 6, generator=drawn(0))
    before = logits.clone()
    noisy = choose(logits, 2, gumbel(logits, drawn(1)))
    assert torch.equal(noisy[:, 0], logits.argmax(1)) and torch.equal(logits, before)
    assert (noisy[:, 0] != noisy[:, 1]).all()
    assert (noisy[:, 1] != logits.topk(2).indices[:, 1]).float().mean() > 0.2


@pytest.mark.parametrize("k", [1, 2, 3])
def test_balance_loss(k):
    logits = torch.randn(50, 4, generator=drawn(k))
    probabilities, experts = logits.softmax(1), choose(logits, k)
    torch.testing.assert_close(balance_loss(probabilities, experts), balance(probabilities, experts))
    valid = torch.arange(50) % 3 > 0
    torch.testing.assert_close(
        balance_loss(probabilities, experts, valid), balance(probabilities[valid], experts[valid])
    )


def test_balance_loss_is_one_when_balanced_and_grows_to_the_number_of_experts():
    even = torch.full((8, 4), 0.25)
    cycle = torch.arange(8)[:, None] % 4
    assert balance_loss(even, cycle) == 1
    alone = one_hot(torch.zeros(8, dtype=torch.long), 4).float()
    assert balance_loss(alone, torch.zeros(8, 1, dtype=torch.long)) == 4
    assert balance_loss(even, cycle, torch.zeros(8, dtype=torch.bool)) == 0


def test_z_loss():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert z_loss(logits) == pytest.approx((math.log(2) ** 2 + math.log(4) ** 2) / 2)
    assert z_loss(logits, torch.tensor([True, False])) == pytest.approx(math.log(2) ** 2)
