"""Filters against Python's own comparison over random rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import UsageError
from mainspring.products.search import Document, Index
from mainspring.products.search.filters import Among, Both, Compare, Either, Filter, Not, read, sql

ROWS = [
    {"year": 1999, "kind": "a", "open": True},
    {"year": 2005, "kind": "b", "open": False, "odd name'\"": "x"},
    {"year": 2020, "kind": "a"},
    {"kind": None, "open": True},
]
LEAVES = st.one_of(
    st.builds(
        Compare, st.just("year"), st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), st.integers(1998, 2021)
    ),
    st.builds(Compare, st.just("kind"), st.sampled_from(["=", "<>"]), st.sampled_from(["a", "b", None])),
    st.builds(Compare, st.just("open"), st.sampled_from(["=", "<>"]), st.booleans()),
    st.builds(Among, st.just("year"), st.tuples(st.integers(1998, 2021), st.integers(2004, 2006))),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Both, st.tuples(inner, inner)),
        st.builds(Either, st.tuples(inner, inner)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.create(tmp_path_factory.mktemp("filters") / "i", encoder=None)
    made.add(Document(str(i), f"row number {i}", fields=row, language="en") for i, row in enumerate(ROWS))
    return made


def holds(condition: Filter, row: dict[str, object]) -> bool:
    match condition:
        case Both(parts):
            return all(holds(p, row) for p in parts)
        case Either(parts):
            return any(holds(p, row) for p in parts)
        case Not(part):
            return not holds(part, row)
        case Among(field, values):
            return row.get(field) in values
        case Compare(field, "=", value):
            return row.get(field) == value
        case Compare(field, "<>", value):
            return row.get(field) != value
        case Compare(field, sign, value):
            held = row.get(field)
            tests = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b}
            return held is not None and tests.get(sign, lambda a, b: a >= b)(held, value)
    raise AssertionError(condition)


@given(TREES)
def test_filters_mean_what_python_means(index: Index, condition: Filter) -> None:
    want = {str(i) for i, row in enumerate(ROWS) if holds(condition, row)}
    numbers = index.store.matching(*sql(condition), index.store.generation)
    assert {d.key for d in index.store.documents(numbers).values()} == want
    found = index.search("row", top=50, filters=condition)
    assert {hit.key for hit in found.hits} == want


def test_tables_and_names(index: Index) -> None:
    assert [h.key for h in index.search("row", filters={"odd name'\"": "x"}).hits] == ["1"]
    assert [h.key for h in index.search("row", filters={"key": ["3", "9"]}).hits] == ["3"]
    assert len(index.search("row", filters={}).hits) == 4
    assert len(index.search("row", filters={"language": "en"}).hits) == 4
    assert read(None) is None
    with pytest.raises(UsageError, match="searched, not filtered"):
        index.search("row", filters={"text": "row"})
    with pytest.raises(UsageError, match="not dict"):
        index.search("row", filters={"year": {}})  # type: ignore[dict-item]
    assert index.search("row", filters={"year' OR 1=1 --": 1}).hits == []
