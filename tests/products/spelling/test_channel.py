"""The error channel beside a plain search for the cheapest way."""

import random
from functools import cache

import numpy as np
import pytest

from mainspring.products.spelling.channel import BAND, FAR, Channel, Words, costs
from mainspring.products.spelling.letters import ClassTable, encode, letter_class
from mainspring.products.spelling.training.fit_channel import fit, generic


def words(items: list[str]) -> Words:
    codes, lengths = encode(items)
    return Words(codes, ClassTable().of(codes), lengths)


def cheapest(channel: Channel, wrong: str, right: str) -> float:
    """By recursion over what is left of both."""
    x, y = [letter_class(c) for c in wrong], [letter_class(c) for c in right]

    @cache
    def best(i: int, j: int) -> float:
        if abs(i - j) > BAND:
            return float(FAR)
        if i == j == 0:
            return 0.0
        first = float(channel.first[0])
        before = y[j - 2] if j > 1 else 0
        ways = [float(FAR)]
        if j:
            ways.append(best(i, j - 1) + channel.omitted[before, y[j - 1]] + (first if j == 1 else 0))
        if i:
            ways.append(
                best(i - 1, j) + channel.added[y[j - 1] if j else 0, x[i - 1]] + (first if i == 1 else 0)
            )
        if i and j:
            if wrong[i - 1] == right[j - 1]:
                ways.append(best(i - 1, j - 1))
            else:
                same = x[i - 1] == y[j - 1]
                bare = [ord(wrong[i - 1]) == x[i - 1] + 96, ord(right[j - 1]) == y[j - 1] + 96]
                mark = channel.marks[0 if bare[0] else 1 if bare[1] else 2]
                cost = mark if same else channel.replaced[y[j - 1], x[i - 1]]
                ways.append(best(i - 1, j - 1) + cost + (first if i == j == 1 else 0))
        if i and j > 1:
            ways.append(best(i - 1, j - 2) + channel.joined[y[j - 2], y[j - 1], x[i - 1]])
        if i > 1 and j:
            ways.append(best(i - 2, j - 1) + channel.parted[y[j - 1], x[i - 2], x[i - 1]])
        if i > 1 and j > 1:
            crossed = wrong[i - 1] == right[j - 2] and wrong[i - 2] == right[j - 1]
            table = (
                channel.swapped[y[j - 2], y[j - 1]]
                if crossed
                else channel.paired[y[j - 2], y[j - 1], x[i - 2], x[i - 1]]
            )
            ways.append(best(i - 2, j - 2) + table)
        return float(min(ways))

    return min(best(len(wrong), len(right)), float(FAR))


def learnt() -> Channel:
    return fit(
        [("fone", "phone", 9.0), ("fotos", "photos", 9.0), ("nashun", "nation", 5.0), ("kwick", "quick", 5.0)]
    )


@pytest.mark.parametrize("channel", [generic(), learnt()], ids=["generic", "learnt"])
def test_costs_are_those_of_the_cheapest_way(channel: Channel) -> None:
    rng = random.Random(3)
    pairs = [
        ("recieve", "receive"),
        ("fone", "phone"),
        ("resume", "résumé"),
        ("éte", "été"),
        ("нд", "да"),
        ("a", "abcdefg"),
    ]
    pairs += [
        (
            "".join(rng.choices("abéphquш", k=rng.randint(1, 8))),
            "".join(rng.choices("abéphquш", k=rng.randint(1, 8))),
        )
        for _ in range(150)
    ]
    made = costs(channel, words([a for a, _ in pairs]), words([b for _, b in pairs]))
    wanted = [cheapest(channel, a, b) for a, b in pairs]
    np.testing.assert_allclose(made, wanted, rtol=1e-4)


def test_what_is_met_often_becomes_cheap() -> None:
    channel = learnt()
    p, h, f = (letter_class(c) for c in "phf")
    assert channel.joined[p, h, f] < 3 < generic().joined[p, h, f]
    assert (
        costs(channel, words(["fone"]), words(["phone"]))[0]
        < costs(generic(), words(["fone"]), words(["phone"]))[0]
    )


def test_nothing_costs_nothing_and_equal_words_cost_nothing() -> None:
    assert costs(generic(), words([]), words([])).shape == (0,)
    assert costs(generic(), words(["same", "être"]), words(["same", "être"])).tolist() == [0.0, 0.0]
