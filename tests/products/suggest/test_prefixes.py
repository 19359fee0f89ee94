"""Completion against a plain scan of all texts."""

from hypothesis import given
from hypothesis import strategies as st

from mainspring.products.suggest import Prefixes
from mainspring.products.suggest.prefixes import normal

WORDS = st.text(alphabet="abé ", max_size=6)


@given(st.dictionaries(WORDS, st.integers(0, 5).map(float), max_size=40), WORDS, st.integers(0, 8))
def test_the_heaviest_of_a_prefix_are_found(weights: dict[str, float], typed: str, limit: int) -> None:
    found = Prefixes(weights, "query").complete(typed, limit)
    best: dict[str, float] = {}
    for text, weight in weights.items():
        key = normal(text).strip()
        if key:
            best[key] = max(best.get(key, -1.0), weight)
    prefix = normal(typed).lstrip()
    want = [(-w, k) for k, w in best.items() if prefix and k.startswith(prefix) and k != prefix.strip()]
    assert [(-s.weight, normal(s.text).strip()) for s in found] == sorted(want)[:limit]


def test_case_and_spaces_do_not_matter_but_are_kept() -> None:
    held = Prefixes({"Main  Spring": 1, "main spring": 3, "Mainland": 2}, "title")
    assert [s.text for s in held.complete("MAIN", 5)] == ["main spring", "Mainland"]
    assert [s.text for s in held.complete("main ", 5)] == ["main spring"]
    assert held.complete("", 5) == []
    assert len(Prefixes({}, "x")) == 0
    assert Prefixes({}, "x").complete("a", 3) == []
