"""run: load models and serve them until the process is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import torch.distributed as dist
import uvicorn
from fastapi import FastAPI

from mainspring.errors import UsageError
from mainspring.infer.batching import BatchSettings, SpreadBatcher, follow
from mainspring.infer.engine import Engine
from mainspring.parallel import Plan
from mainspring.serve.app import create_app
from mainspring.serve.limits import Limits
from mainspring.serve.loading import about, names_of, serve_engine
from mainspring.serve.models import Model

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients and balancers keep one (a minute, most),
so that they close it and no request meets a connection that is being closed here."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine reaches."""


def run(
    paths: str | Path | Sequence[str | Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    names: Sequence[str] = (),
    device: str = "cpu",
    precision: str = "fp32",
    direction: str | None = None,
    plan: Plan | None = None,
    limits: Limits | None = None,
    batching: BatchSettings | None = None,
    keys: Sequence[str] = (),
    log: Callable[[str], object] | None = None,
    grace: float = 10.0,
    on_ready: Callable[[str], None] | None = None,
    note: Callable[[str], object] | None = None,
) -> None:
    """Serve models until SIGINT or SIGTERM; then finish the answers under way and return.

    Args:
        paths: what `Engine.load` takes, one or several.
        host: address to listen on; the default is reachable from this machine only.
        port: 0 takes any free one.
        names: what each model is called (none: as its folder).
        device: where the models run.
        precision: what they compute in (`infer.precision`).
        direction: which of several directions a model that translates writes.
        plan: cut the model, which is one that writes, over `plan.tensor` ranks. All of them make this call in
            a process group; rank 0 serves.
        limits: what is refused.
        batching: bounds of each model's running batch.
        keys: API keys, of which a request has to bring one; without any, none is asked for.
        log: takes a line of JSON about each request.
        grace: seconds that answers under way may take to finish after the signal; those that take longer end
            with an error object that says so.
        on_ready: called with the address once the server listens.
        note: told what whoever runs the server should know.

    Raises:
        UsageError: a model cannot be loaded, or the address is not free, or two models have one name; or
            several, or one that does not write, are to be cut over ranks.
    """
    places = [paths] if isinstance(paths, str | Path) else list(paths)
    spread = plan is not None and plan.world > 1
    if spread and len(places) > 1:
        raise UsageError(f"{len(places)} models are to be cut over ranks; serve one, or all of them whole")
    models: dict[str, Model] = {}
    notes: list[str] = []
    for name, path in zip(names_of(places, names), places, strict=True):
        engine = Engine.load(path, device, precision, direction=direction, plan=plan)
        if spread:
            engine.check_writes()
            if dist.get_rank() > 0:
                for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 takes them, and lets this one go
                    signal.signal(number, signal.SIG_IGN)
                follow(engine, batching)
                return
        models[name] = serve_engine(engine, batching=batching, folder=Path(path), spread=spread)
        notes += [*engine.notes, *about(name, models[name])]
    if not keys and host not in LOOPBACK:
        notes.append(f"{host} is reachable from other machines and no API key is asked for (--api-keys FILE)")
    with contextlib.ExitStack() as stack:
        for model in models.values():
            if isinstance(model.writer, SpreadBatcher):
                stack.callback(model.writer.release)
        listener = stack.enter_context(contextlib.closing(listen(host, port)))
        app = create_app(models, limits=limits, keys=keys, log=log)

        def ready() -> None:
            if on_ready is not None:
                on_ready(address(listener))
            if note is not None:
                for line in notes:
                    note(line)

        # uvicorn's own limit cuts connections: for clients that do not read what they are told at `grace`.
        server = Server(
            app, cut=grace + 5, grace=grace, drain=app.state.service.drain, end=app.state.service.end,
            on_ready=ready,
        )  # fmt: skip
        asyncio.run(server.serve([listener]))


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        UsageError: the address does not exist here, or is not free.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port}: should be from 0 (any free one) to 65535")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"host {host!r}: is not an address of this machine ({error.strerror})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror}; "
            "choose another port, or 0 for any free one"
        ) from error
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Says when it listens, ends what outlasts its grace, and returns after a signal, not raising it."""

    def __init__(
        self,
        app: FastAPI,
        *,
        cut: float,
        grace: float,
        end: Callable[[], object],
        on_ready: Callable[[], object],
        drain: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_ready` is called at the start, `drain` when a shutdown begins, which waits for answers, and
        `end` if it does so for `grace` seconds; connections are cut `cut` seconds after its beginning."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=math.ceil(cut),
        )
        super().__init__(config)
        self._grace, self._drain, self._end, self._on_ready = grace, drain, end, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if not self.should_exit:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections and wait for the answers under way."""
        self._drain()
        timer = asyncio.get_running_loop().call_later(self._grace, self._end)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully at the first signal, at once at a second SIGINT; signals are ours until the end."""

        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's; whoever runs a server in another sets `should_exit`
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
