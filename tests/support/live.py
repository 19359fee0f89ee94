"""A real server on loopback in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mainspring.serve import Model, create_app
from mainspring.serve.server import Server, address, listen


@contextmanager
def live(models: Mapping[str, Model], **settings: Any) -> Iterator[str]:
    """Serve models on a free port; yields the URL. `settings` are those of `create_app`."""
    app = create_app(models, **settings)
    listener, ready = listen("127.0.0.1", 0), threading.Event()
    server = Server(
        app, cut=5.0, grace=2.0, drain=app.state.service.drain, end=app.state.service.end, on_ready=ready.set
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield address(listener)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()
