"""The server as its OpenAPI document has it: schemathesis makes requests that fit it and that do not."""

import contextlib
import sys
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.openapi import from_url
from schemathesis.schemas import APIOperation

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


# Not `schemathesis.pytest`: what it does to names of tests, pytest 9 no longer has.
def test_every_request_is_answered(described: schemathesis.BaseSchema) -> None:
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:
        for mode in GenerationMode:
            _ask(operation, mode)


def _ask(operation: APIOperation, mode: GenerationMode) -> None:
    """Requests to an operation: those that fit what is said of it, or those that do not."""

    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        if "name" in case.path_parameters:
            case.path_parameters["name"] = "docs"  # else most would ask for an index that is not there
        response = case.call()
        assert response.status_code in ANSWERED or (
            response.status_code == 503 and case.operation.path == "/readyz"
        ), (response.status_code, response.text)
        if response.status_code >= 400:
            body = response.json()
            assert set(body) == {"error"} or case.operation.path == "/readyz"

    with contextlib.suppress(Unsatisfiable):  # nothing that does not fit can be made for every operation
        ask()
