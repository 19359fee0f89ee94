"""The server as its OpenAPI document has it: schemathesis makes requests that fit it and that do not."""

import sys
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.openapi import from_url
from schemathesis.pytest import from_fixture

from support import served_documents
from support.scripted import Served

ANSWERED = {200, 201, 207, 307, 400, 404, 405, 413, 431}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served([sys.executable, served_documents.__file__, str(tmp_path_factory.mktemp("fuzzed"))])
    yield made
    made.stop()


@pytest.fixture(scope="module")
def described(server: Served) -> schemathesis.BaseSchema:
    return from_url(f"{server.url}/openapi.json")


requests = from_fixture("described")


@requests.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
def test_every_request_is_answered(case: Case) -> None:
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "docs"  # else most would ask for an index that is not there
    response = case.call()
    assert response.status_code in ANSWERED or (
        response.status_code == 503 and case.operation.path == "/readyz"
    ), (response.status_code, response.text)
    if response.status_code >= 400:
        body = response.json()
        assert set(body) == {"error"} or case.operation.path == "/readyz"
