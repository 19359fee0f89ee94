"""run_search: open an index and serve it until the process is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from mainspring.products.search import Index
from mainspring.products.search.also_asked import AlsoAsked
from mainspring.products.spelling import Speller
from mainspring.products.suggest import PhraseModel, QueryLog
from mainspring.serve.search.app import SearchLimits, Service, create_search_app
from mainspring.serve.server import Server, address, listen

QUERIES = "queries.jsonl"
"""Past queries, within an index's folder."""


def run_search(
    path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8010,
    *,
    api_key: str | None = None,
    writable: bool = True,
    remember: bool = True,
    model: PhraseModel | None = None,
    heads: str | Path | None = None,
    precision: str = "fp32",
    speller: Speller | None = None,
    limits: SearchLimits | None = None,
    grace: float = 10.0,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the index at `path` by its folder's name until SIGINT or SIGTERM.

    Args:
        path: the index.
        host: address to listen on; the default is reachable from this machine only.
        port: 0 takes any free one.
        api_key: what clients must send (None: nothing).
        writable: whether documents may be uploaded and deleted.
        remember: keep past queries in the index's folder, to suggest those asked more than once.
        model: completes what is typed where past queries and titles are few.
        heads: folder of heads over the index's encoder, in place of the package's.
        precision: what the encoder reads in (`infer.precision`).
        speller: asks whether another spelling was meant.
        limits: what is refused.
        grace: seconds that answers under way may take to finish after the signal.
        on_ready: called with the address once the server listens.

    Raises:
        UsageError: there is no index, it is damaged, or the address is not free.
    """
    place = Path(path)
    with Index.open(place, heads=heads, precision=precision) as index:
        log = QueryLog(place / QUERIES) if remember else None
        service = Service(index, log, model, AlsoAsked.open(index), speller)
        app = create_search_app(
            {place.resolve().name: service}, limits=limits, api_key=api_key, writable=writable
        )
        with contextlib.closing(listen(host, port)) as listener:
            server = Server(
                app,
                cut=grace,
                grace=grace,
                end=lambda: None,
                on_ready=lambda: on_ready(address(listener)) if on_ready else None,
            )
            asyncio.run(server.serve([listener]))
