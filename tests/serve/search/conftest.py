"""A client of a served index."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mainspring.serve.search import Service, create_search_app
from support.served_documents import FirstSentence, service_in


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """An index with something that answers."""
    return service_in(tmp_path / "docs", answerer=FirstSentence())


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    """A client of the application that serves it."""
    with TestClient(create_search_app({"docs": service}), raise_server_exceptions=False) as made:
        yield made
