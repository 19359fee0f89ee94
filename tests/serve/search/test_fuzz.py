"""Whatever is sent, the server answers: 200, or an error object that is the sender's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.serve.search import create_search_app
from mainspring.serve.search.schema import SearchRequest
from support.served_documents import FirstSentence, service_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = sorted(f.alias or name for name, f in SearchRequest.model_fields.items())
LIKELY = st.sampled_from(
    [
        "semantic",
        "extractive|count-3",
        "watch",
        "*",
        "id",
        "year desc",
        "language eq 'en' and not (year gt 3)",
        "",
        "none",
    ]
)
ODATA = st.lists(
    st.sampled_from(
        ["year", "eq", "'x'", "and", "or", "not", "(", ")", "1", "null", "search.in", ",", "'", "lt", "-"]
    ),
    max_size=12,
).map(" ".join)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    service = service_in(tmp_path_factory.mktemp("fuzz") / "docs", answerer=FirstSentence())
    with TestClient(create_search_app({"docs": service}), raise_server_exceptions=False) as made:
        yield made


def check(client: TestClient, path: str, body: Any) -> None:
    content = json.dumps(body)
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in (200, 207, 400, 404), (path, content, response.text)
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"code", "message"}


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(NAMES), LIKELY | JSON, max_size=6))
def test_searches(client: TestClient, body: dict[str, Any]) -> None:
    check(client, "/indexes/docs/docs/search", body)


@settings(max_examples=80)
@given(ODATA | st.text(max_size=30))
def test_filters(client: TestClient, text: str) -> None:
    check(client, "/indexes/docs/docs/search", {"search": "*", "filter": text})


@settings(max_examples=60)
@given(
    JSON | st.fixed_dictionaries({"search": JSON}) | st.fixed_dictionaries({"value": JSON | st.lists(JSON)})
)
def test_other_routes(client: TestClient, body: Any) -> None:
    for path in ("docs/suggest", "docs/autocomplete", "docs/index", "docs/search"):
        check(client, f"/indexes/docs/{path}", body)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json(client: TestClient, content: bytes) -> None:
    response = client.post(
        "/indexes/docs/docs/search", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code in (200, 400)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_names_and_keys(client: TestClient, name: str) -> None:
    from urllib.parse import quote

    for path in (f"/indexes/{quote(name, safe='')}/stats", f"/indexes/docs/docs/{quote(name, safe='')}"):
        assert client.get(path).status_code in (200, 307, 400, 404, 405)
