"""Azure's own client drives the server on loopback."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from mainspring.serve.search import create_search_app
from mainspring.serve.server import Server, address, listen
from support.served_documents import Asked, FirstSentence, service_in

documents = pytest.importorskip("azure.search.documents", reason="azure-search-documents is not installed")
credentials = pytest.importorskip("azure.core.credentials")
exceptions = pytest.importorskip("azure.core.exceptions")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread."""
    service = service_in(tmp_path_factory.mktemp("azure") / "docs", answerer=FirstSentence(), related=Asked())
    app = create_search_app({"docs": service}, api_key="key")
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(app, cut=5, grace=5, end=lambda: None, on_ready=ready.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    assert ready.wait(20)
    yield address(listener)
    server.should_exit = True
    thread.join(20)
    listener.close()


@pytest.fixture
def client(url: str):
    with documents.SearchClient(url, "docs", credentials.AzureKeyCredential("key")) as made:
        yield made


def test_a_semantic_query(client) -> None:
    found = client.search(
        "what drives a watch",
        query_type="semantic",
        semantic_configuration_name="default",
        query_caption="extractive",
        query_answer="extractive",
        query_answer_count=2,
        include_total_count=True,
        select=["id", "title"],
        top=3,
    )
    rows = list(found)
    assert rows[0]["id"] in ("watch", "evil")
    assert 0 <= rows[0]["@search.reranker_score"] <= 4
    caption = rows[0]["@search.captions"][0]
    assert "<em>" in caption.highlights
    assert caption.text == caption.highlights.replace("<em>", "").replace("</em>", "")
    assert found.get_count() >= 3
    answers = found.get_answers()
    assert len(answers) == 2
    assert answers[0].key in ("watch", "evil")
    assert answers[0].score > answers[1].score


def test_filters_pages_and_order(client) -> None:
    rows = list(client.search("*", filter="language eq 'en'", order_by=["year desc"], select="id", top=2))
    assert [row["id"] for row in rows] == ["river", "watch"]
    assert client.get_document("feder")["title"] == "Feder"
    assert client.get_document("a/b'c", selected_fields=["id"])["id"] == "a/b'c"
    assert client.get_document_count() >= 5


def test_uploads_and_deletes(client) -> None:
    (made,) = client.upload_documents(
        [{"id": "up", "content": "an uploaded text about volcanoes", "title": "Up"}]
    )
    assert (made.key, made.succeeded, made.status_code) == ("up", True, 201)
    client.merge_documents([{"id": "up", "kind": "test"}])
    (row,) = client.search("volcanoes", filter="kind eq 'test'")
    assert row["content"] == "an uploaded text about volcanoes"
    assert client.merge_or_upload_documents([{"id": "up", "title": "Upper"}])[0].status_code == 200
    assert client.delete_documents([{"id": "up"}])[0].succeeded
    assert list(client.search("volcanoes")) == []
    assert [r.status_code for r in client.merge_documents([{"id": "gone", "kind": "x"}])] == [404]


def test_suggestions(client) -> None:
    assert [s.text for s in client.suggest("main", "sg")] == ["Mainspring"]
    assert client.autocomplete("main", "sg")[0].query_plus_text == "mainspring"


def test_errors_reach_the_client(client, url: str) -> None:
    with pytest.raises(exceptions.HttpResponseError, match="not supported when 'queryType'"):
        list(client.search("x", query_type="semantic", semantic_configuration_name="d", order_by="year"))
    with pytest.raises(exceptions.ResourceNotFoundError):
        client.get_document("none")
    with (
        documents.SearchClient(url, "docs", credentials.AzureKeyCredential("wrong")) as other,
        pytest.raises(exceptions.HttpResponseError, match="api-key"),
    ):
        list(other.search("x"))


def test_clients_at_once_while_documents_change(client, url: str) -> None:
    """No query fails and no document that stays is missed, while others come and go."""
    stop = time.monotonic() + 4
    faults: list[BaseException] = []
    done = [0]

    def ask() -> None:
        try:
            with documents.SearchClient(url, "docs", credentials.AzureKeyCredential("key")) as own:
                while time.monotonic() < stop:
                    rows = list(
                        own.search(
                            "mainspring watch", query_type="semantic", semantic_configuration_name="d", top=5
                        )
                    )
                    assert "watch" in [row["id"] for row in rows]
                    done[0] += 1
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    turn = 0
    while time.monotonic() < stop:
        client.upload_documents([{"id": f"t{turn % 3}", "content": f"a watch of turn {turn}"}])
        turn += 1
    for thread in threads:
        thread.join()
    assert faults == []
    assert done[0] > 8
    assert turn > 2
