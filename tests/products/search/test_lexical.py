"""The lexical index against BM25 by its formula, and what it takes as a query."""

import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.products.search.analysis import terms
from mainspring.products.search.lexical import plain
from mainspring.products.search.store import ToIndex
from mainspring.products.search.tantivy_index import TantivyIndex
from mainspring.products.search.tantivy_view import TITLE_BOOST, TantivyView

TEXTS = [
    "springs store energy and springs give it back",
    "a river runs to the sea",
    "energy flows through the river of springs",
    "the sea is deep",
    "watches run on springs",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TantivyIndex:
    made = TantivyIndex(tmp_path_factory.mktemp("lexical"), "en")
    rows = [ToIndex(i, 100 + i, f"title {i}" if i % 2 else "", text, "en") for i, text in enumerate(TEXTS)]
    made.write([], rows)
    return made


@pytest.fixture(scope="module")
def view(index: TantivyIndex) -> TantivyView:
    return index.view()


def bm25(query: str) -> dict[int, float]:
    """Robertson's formula with k1 = 1.2, b = 0.75, over both fields; short lengths are stored exactly."""
    asked = terms(query, ["en"])
    scores: Counter[int] = Counter()
    for boost, field in ((1.0, "text"), (TITLE_BOOST, "title")):
        titles = [f"title {i}" if i % 2 else "" for i in range(len(TEXTS))]
        contents = [f"{t}\n{x}" if field == "text" else t for t, x in zip(titles, TEXTS, strict=True)]
        counts = [terms(content, ["en"]) for content in contents]
        lengths = [sum(c.values()) for c in counts]
        average = sum(lengths) / len(TEXTS)
        for term, times in asked.items():
            holders = sum(term in c for c in counts)
            rarity = math.log(1 + (len(TEXTS) - holders + 0.5) / (holders + 0.5))
            for i, c in enumerate(counts):
                if c.get(term):
                    norm = 1.2 * (1 - 0.75 + 0.75 * lengths[i] / average)
                    scores[i] += boost * times * rarity * c[term] * 2.2 / (c[term] + norm)
    return dict(scores)


@pytest.mark.parametrize("query", ["springs", "energy river", "springs springs springs sea", "title energy"])
def test_scores_are_bm25_with_counts_of_the_query(view: TantivyView, query: str) -> None:
    found = {hit.passage: hit.score for hit in view.search(query, 10, languages=["en"])}
    assert found == pytest.approx(bm25(query), rel=1e-4)


def test_a_repeated_word_weighs_more(view: TantivyView) -> None:
    once = view.search("river springs", 10, languages=["en"])
    often = view.search("river river river springs", 10, languages=["en"])
    assert [h.passage for h in once] != [h.passage for h in often] or once[0].score < often[0].score


def test_what_must_and_must_not_occur(view: TantivyView) -> None:
    def found(query: str) -> set[int]:
        return {hit.passage for hit in view.search(query, 10, languages=["en"])}

    assert found('"store energy"') == {0}
    assert found('"energy store"') == set()
    assert found("river -energy") == {1}
    assert found("springs +river") == {1, 2}
    assert found('springs -"run on"') == {0, 2}
    assert found("-river") == set()
    assert plain("a b") is None
    assert plain('a -b "c d" +e') == "a c d e"


def test_only_among_some_documents(view: TantivyView) -> None:
    hits = view.search("springs", 10, languages=["en"], within=[102, 104])
    assert {h.passage for h in hits} == {2, 4}
    assert hits == [h for h in view.search("springs", 10, languages=["en"]) if h.passage in (2, 4)]
    assert view.search("springs", 10, languages=["en"], within=[]) == []


@given(st.text(max_size=60))
def test_any_text_is_a_query(view: TantivyView, query: str) -> None:
    assert len(view.search(query, 3, languages=["en", "de"])) <= 3
    assert len(view.search(query + ' AND (foo" OR:^~[* TO]', 3, languages=["en"])) <= 3


def test_replacing_and_removing(tmp_path: Path) -> None:
    index = TantivyIndex(tmp_path, "en")
    index.write([], [ToIndex(1, 1, "", "alpha", "en"), ToIndex(2, 2, "", "alpha", "de")])
    index.write([], [ToIndex(1, 1, "", "beta", "en")], again=True)
    before = index.view()
    index.write([2], [])
    assert {h.passage for h in before.search("alpha", 9, languages=["en"])} == {2}
    after = index.view()
    assert after.search("alpha", 9, languages=["en"]) == []
    assert [h.passage for h in after.search("beta", 9, languages=["en"])] == [1]
    assert after.passages == 1
    assert [h.passage for h in TantivyIndex(tmp_path, "en").view().search("beta", 9, languages=["en"])] == [1]


def test_deletions_that_were_not_committed_are_in_nobodys_way(tmp_path: Path) -> None:
    """A writer killed between its deletions and its commit leaves a file of the name that comes next."""
    whole, dying = tmp_path / "whole", tmp_path / "dying"
    rows = [ToIndex(n, n, f"title {n}", f"text number {n}", "en") for n in range(4)]
    TantivyIndex(whole, "en").write([], rows)
    shutil.copytree(whole, dying)
    TantivyIndex(dying, "en").write([2], [])
    (left,) = dying.glob("*.del")
    shutil.copy(left, whole)
    index = TantivyIndex(whole, "en")
    index.write([2], [])
    assert index.view().passages == 3
    assert [file.name for file in whole.glob("*.del")] == [left.name]
