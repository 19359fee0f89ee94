"""Keyed permutations: bijective, keyed, without visible order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data.permute import key_of, permute
from mainspring.errors import DataError


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(st.integers(1, 2**62), st.integers(0, 2**64 - 1), st.data())
def test_large_domains_stay_inside_and_apart(size: int, key: int, draw: st.DataObject) -> None:
    places = draw.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True))
    found = permute(places, size, key)
    assert len(set(found.tolist())) == len(places)
    assert found.min() >= 0
    assert found.max() < size


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 2**64 - 1)), min_size=1, max_size=10), st.data()
)
def test_together_is_one_by_one(pairs: list[tuple[int, int]], draw: st.DataObject) -> None:
    places = [draw.draw(st.integers(0, size - 1)) for size, _ in pairs]
    sizes, keys = [size for size, _ in pairs], np.array([key for _, key in pairs], dtype=np.uint64)
    together = permute(places, sizes, keys).tolist()
    assert together == [int(permute(p, s, k)) for p, s, k in zip(places, sizes, keys, strict=True)]


def test_orders_look_random() -> None:
    """Fixed points and neighbours that stay neighbours are as rare as in random permutations (about 1)."""
    size, keys = 1000, range(200)
    orders = np.stack([permute(np.arange(size), size, key_of("t", key)) for key in keys])
    fixed = (orders == np.arange(size)).sum(axis=1)
    neighbours = (np.diff(orders, axis=1) == 1).sum(axis=1)
    assert 0.7 < fixed.mean() < 1.3
    assert 0.7 < neighbours.mean() < 1.3
    firsts = np.bincount(orders[:, 0] * 10 // size, minlength=10)
    assert firsts.max() < 45  # 20 expected in each tenth


def test_keys_differ_by_kind_and_order() -> None:
    keys = {key_of(1, 2), key_of(2, 1), key_of("1", 2), key_of(12), key_of("12"), key_of("1", "2")}
    assert len(keys) == 6


def test_outside_is_an_error() -> None:
    with pytest.raises(DataError, match=r"index 5 is outside 0\.\.4"):
        permute([1, 5], 5, 0)
    with pytest.raises(DataError, match="index -1"):
        permute(-1, 5, 0)
    with pytest.raises(DataError, match=r"cannot permute 0\.\.0"):
        permute([0], 0, 0)
    assert permute([], 5, 0).shape == (0,)
