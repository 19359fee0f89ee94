"""Clients and servers of a scripted engine."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support.browser import ARGUMENTS, CHROMIUM
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
        served.end()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser context with a fresh profile."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=str(CHROMIUM),
            args=ARGUMENTS,
            headless=True,
        )
        yield context
        context.close()
