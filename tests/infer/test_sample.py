"""Drawing tokens: the right distribution, and each row on its own."""

import torch

from mainspring.infer.sample import greedy, row_generator, sample


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0, 0.5]])
    generator = row_generator(0, 0)
    count = torch.bincount(torch.cat([sample(logits, [generator]) for _ in range(4000)]), minlength=5)
    expected = logits[0].softmax(-1) * 4000
    assert count[2] == 0
    # Pearson's statistic of 3 degrees of freedom is above 16.3 once in a thousand.
    assert (((count - expected) ** 2 / expected)[expected > 0]).sum() < 16.3


def test_a_row_draws_the_same_in_any_company() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    together = sample(logits, [row_generator(7, k) for k in range(4)])
    for k in range(4):
        assert sample(logits[k : k + 1], [row_generator(7, k)]) == together[k]


def test_streams_differ_by_seed_and_by_index() -> None:
    first = {
        float(torch.rand((), generator=row_generator(s, i), dtype=torch.float64))
        for s in range(20)
        for i in range(20)
    }
    assert len(first) == 400
    assert row_generator(3, 1).initial_seed() == row_generator(3, 1).initial_seed()


def test_excluded_tokens_are_never_drawn_at_the_edges() -> None:
    logits = torch.full((1, 9), -torch.inf)
    logits[0, 4] = 0.0
    generator = row_generator(0, 0)
    assert {int(sample(logits, [generator])) for _ in range(200)} == {4}


def test_greedy_takes_the_first_of_equals() -> None:
    assert greedy(torch.tensor([[1.0, 3.0, 3.0], [5.0, 0.0, 5.0]])).tolist() == [1, 0]
