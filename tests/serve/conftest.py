"""Clients and servers of a scripted engine."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from support.scripted import Scripted, Served, client_of

SERVER = Path(__file__).with_name("serve_scripted.py")


@pytest.fixture
def engine() -> Scripted:
    """An engine that answers at once."""
    return Scripted()


@pytest.fixture
def client(engine: Scripted) -> Iterator[TestClient]:
    """A client of that engine's application."""
    with client_of(engine) as made:
        yield made


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start server processes: `serve(*command)`, or `serve()` for the scripted engine; stopped at the end."""
    started: list[Served] = []

    def start(*command: str, text: str = "", pause: float = 0.0) -> Served:
        started.append(Served(command or (sys.executable, str(SERVER), str(pause), text)))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate()
