"""Many clients at once while documents change: every query is answered, and finds what is always there."""

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from support import served_documents
from support.scripted import Served

SEARCH, CHANGE = "/indexes/docs/docs/search", "/indexes/docs/docs/index"
QUERIES = [
    {"search": "mainspring watch"},
    {
        "search": "what drives a watch",
        "queryType": "semantic",
        "captions": "extractive",
        "answers": "extractive",
    },
    {"search": "watch", "filter": "language eq 'en'", "count": True},
]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served([sys.executable, served_documents.__file__, str(tmp_path_factory.mktemp("load"))])
    yield made
    made.stop()


class Client:
    """One connection that is kept."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)

    def post(self, path: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
        self._connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize(
    ("clients", "seconds"),
    [(6, 2.0), pytest.param(32, 60.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)])],
)
def test_no_query_fails_while_documents_change(server: Served, clients: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    failed: list[object] = []
    answered = [0] * clients
    editions = [0]

    def ask(number: int) -> None:
        client = Client(server.url)
        try:
            while time.monotonic() < end:
                status, body = client.post(SEARCH, QUERIES[answered[number] % len(QUERIES)])
                found = [row["id"] for row in body.get("value", ())]  # type: ignore[attr-defined]
                if status != 200 or "watch" not in found:
                    failed.append((status, body))
                    return
                answered[number] += 1
        except Exception as error:
            failed.append(repr(error))
        finally:
            client.close()

    def change() -> None:
        client = Client(server.url)
        try:
            while time.monotonic() < end:
                editions[0] += 1
                text = f"A mainspring drives a watch, edition {editions[0]}."
                added = [{"id": f"new{editions[0]}-{i}", "content": f"something new {i}"} for i in range(5)]
                gone = [{"@search.action": "delete", "id": f"new{editions[0] - 1}-{i}"} for i in range(5)]
                rows = [
                    {"id": "watch", "title": "Mainspring", "content": text, "language": "en"},
                    *added,
                    *gone,
                ]
                status, body = client.post(CHANGE, {"value": rows})
                if status != 200:
                    failed.append((status, body))
                    return
        except Exception as error:
            failed.append(repr(error))
        finally:
            client.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    threads.append(threading.Thread(target=change))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 120)
    assert failed == []
    assert min(answered) > 0
    assert editions[0] > 1
