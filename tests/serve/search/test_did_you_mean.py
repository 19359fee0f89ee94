"""Queries that seem misspelt are asked about; what a document has is right."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mainspring.serve.search import create_search_app
from support import tiny_speller
from support.served_documents import service_in

SEARCH = "/indexes/docs/docs/search"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("meant")
    service = service_in(folder / "docs", speller=tiny_speller.speller(folder))
    with TestClient(create_search_app({"docs": service})) as made:
        yield made


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("wacth", "watch"),
        ("what drives a wacth", "what drives a watch"),
        ("Wacth", "Watch"),
        ('+wacth "of steel"', '+watch "of steel"'),
        ("watch", None),
        ("mainspring", None),
        ("hostile", None),
        ("*", None),
        ("", None),
        ("q" * 400, None),
        ("\u202e wacth 😀", "\u202e watch 😀"),
    ],
)
def test_what_was_meant(client: TestClient, query: str, meant: str | None) -> None:
    response = client.post(SEARCH, json={"search": query, "speller": "lexicon", "queryLanguage": "en-us"})
    assert response.status_code == 200, response.text
    assert response.json().get("@search.didYouMean") == meant


def test_it_is_asked_only_where_it_is_wanted(client: TestClient) -> None:
    for body in (
        {"search": "wacth"},
        {"search": "wacth", "speller": "none"},
        {"search": "wacth", "speller": "lexicon", "skip": 1},
    ):
        assert "@search.didYouMean" not in client.post(SEARCH, json=body).json()


def test_a_server_without_speller_takes_the_parameter(tmp_path: Path) -> None:
    with TestClient(create_search_app({"docs": service_in(tmp_path / "docs")})) as client:
        assert (
            "@search.didYouMean"
            not in client.post(SEARCH, json={"search": "wacth", "speller": "lexicon"}).json()
        )
