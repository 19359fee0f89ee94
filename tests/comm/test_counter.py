"""The tally of collectives: volumes by the ZeRO paper's convention, bytes on the wire, stretches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.comm import Counter


@given(payload=st.integers(0, 10**12), ranks=st.integers(1, 4096))
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(payload, ranks):
    one, two = Counter(), Counter()
    one.add("x", "all_reduce", payload, ranks)
    two.add("x", "reduce_scatter", payload, ranks)
    two.add("x", "all_gather", payload, ranks)
    assert one.volume() == two.volume() == 2 * payload
    assert one.wire() == pytest.approx(two.wire())
    assert one.wire() == pytest.approx(2 * payload * (ranks - 1) / ranks)


def test_names_are_kept_apart():
    counter = Counter()
    counter.add("gradients", "all_reduce", 100, 2)
    counter.add("gradients", "all_reduce", 50, 2)
    counter.add("norm", "all_reduce", 8, 2)
    assert (counter.calls("gradients"), counter.volume("gradients")) == (2, 300)
    assert (counter.calls(), counter.volume(), counter.calls("other")) == (3, 316, 0)


def test_a_stretch_counts_only_what_is_inside_it():
    counter = Counter()
    counter.add("a", "broadcast", 10, 4)
    with counter.measure() as seen:
        counter.add("a", "broadcast", 5, 4)
        counter.add("b", "all_gather", 7, 4)
    counter.add("b", "all_gather", 100, 4)
    assert (seen.calls("a"), seen.volume("a"), seen.volume("b")) == (1, 5, 7)
    assert counter.volume() == 122
