"""A server is ready once its models are warm; it answers before."""

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from mainspring.errors import SearchIndexError
from mainspring.products.search import Document, Index
from mainspring.serve.search import Service, create_search_app
from support.hashed_words import HashedWords

SEARCH = "/indexes/docs/docs/search"


class Waits(HashedWords):
    """An encoder whose queries wait."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.queries: list[str] = []

    def encode(self, texts: list[str]) -> np.ndarray:  # type: ignore[override]
        assert self.go.wait(60)
        self.queries += texts
        return super().encode(texts)


def ready_within(client: TestClient, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if client.get("/readyz").status_code == 200:
            return True
        time.sleep(0.02)
    return False


def test_ready_once_the_models_are_warm(tmp_path: Path) -> None:
    encoder = Waits()
    index = Index.create(tmp_path / "docs", encoder=encoder)
    index.add([Document("watch", "A mainspring drives a watch.", language="en")])
    with TestClient(create_search_app({"docs": Service(index)})) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        not_yet = client.get("/readyz")
        assert (not_yet.status_code, not_yet.json()) == (503, {"status": "not ready"})
        assert (
            client.post(SEARCH, json={"search": "watch"}).status_code == 200
        )  # by words, which need no model
        encoder.go.set()
        assert ready_within(client, 60)
        assert encoder.queries  # the encoder has read something before the first semantic query
        assert client.get("/readyz").json() == {"status": "ready"}


def test_a_server_that_cannot_warm_up_says_why_and_is_not_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.create(tmp_path / "docs", encoder=None)

    def damaged() -> None:
        raise SearchIndexError("a segment is damaged")

    monkeypatch.setattr(index, "warm", damaged)
    with (
        caplog.at_level(logging.ERROR, "mainspring.serve.search.app"),
        TestClient(create_search_app({"docs": Service(index)})) as client,
    ):
        end = time.monotonic() + 60
        while not caplog.records and time.monotonic() < end:
            time.sleep(0.02)
        assert "a segment is damaged" in caplog.text
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
