"""Stop strings in growing text."""

from hypothesis import given
from hypothesis import strategies as st

from mainspring.infer.stopping import find_stop, held_back

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


def test_the_first_stop_wins() -> None:
    assert find_stop("abcabc", ["ca", "bc"]) == 1
    assert find_stop("abc", ["x"]) is None
    assert find_stop("abc", []) is None


@given(st.text("ab", max_size=12), STOPS)
def test_what_is_held_back_is_exactly_what_may_still_become_a_stop(text: str, stops: list[str]) -> None:
    size = held_back(text, stops)
    could = [n for n in range(1, len(text) + 1) if any(s.startswith(text[-n:]) and len(s) > n for s in stops)]
    assert size == max(could, default=0)
