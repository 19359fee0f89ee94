"""The HTTP application: OpenAI-shaped completions over engines, health, metrics, and a page to type into."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from mainspring.errors import RunFault, suggest
from mainspring.infer.completion import Piece
from mainspring.infer.options import MAX_SEED
from mainspring.serve import page
from mainspring.serve.completions import Answer
from mainspring.serve.errors import ApiError, install
from mainspring.serve.limits import LimitBody, Limits
from mainspring.serve.metrics import CONTENT_TYPE, MeasureRequests, Metrics
from mainspring.serve.schema import CompletionRequest
from mainspring.serve.worker import Full, Job, TextGenerator, Worker


def create_app(engines: Mapping[str, TextGenerator], *, limits: Limits | None = None) -> FastAPI:
    """Serve `engines` by name.

    Routes: POST /v1/completions, GET /v1/models, /v1/models/NAME, /healthz, /readyz, /metrics and the page at
    /. Each engine has one thread that takes requests in turn; the thread starts and ends with the
    application.

    Args:
        engines: one or more; a request names its model, or leaves it out where there is one.
        limits: what is refused (None: the defaults of `Limits`).
    """
    assert engines, "a server needs an engine"
    limits = limits or Limits()
    metrics = Metrics()
    workers: dict[str, Worker] = {}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        workers.update({name: Worker(name, capacity=limits.waiting) for name in engines})
        yield
        for worker in workers.values():
            await asyncio.to_thread(worker.close)

    app = FastAPI(title="Mainspring", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.workers = workers
    install(app)
    created = int(time.time())

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page.HTML, headers=page.HEADERS)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Whether completions are taken."""
        good = bool(workers) and all(worker.alive for worker in workers.values())
        return JSONResponse({"status": "ready" if good else "not ready"}, 200 if good else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        for name, worker in workers.items():
            metrics.in_flight.labels(name).set(worker.load)
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    def describe(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "mainspring"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served."""
        return {"object": "list", "data": [describe(name) for name in engines]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of the models."""
        return describe(_model(engines, name))

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response | dict[str, Any]:
        """Continue text: all at once, or as server-sent events with `stream`."""
        start = time.perf_counter()
        name = _model(engines, body.model)
        _check(body, limits)
        options = body.options(seed=secrets.randbelow(MAX_SEED))
        if name not in workers:
            raise ApiError(503, "the server is starting; try again soon", kind="server_error")
        generation = await asyncio.to_thread(engines[name].start, body.prompts(), options)
        try:
            job = workers[name].submit(generation)
        except Full as error:
            raise ApiError(
                429,
                f"the server is busy: {error}; try again soon",
                code="busy",
                kind="rate_limit_error",
                headers={"retry-after": "1"},
            ) from None
        except RunFault as error:
            raise ApiError(503, str(error), kind="server_error") from None
        metrics.prompt_tokens.labels(name).inc(sum(generation.prompt_tokens))
        answer = Answer.to(generation, name, options.n, body.logprobs is not None)
        pieces = _measured(job, request, metrics, name, start)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return _Events(answer.events(pieces, usage=usage), job)
        try:
            return await answer.whole(pieces)
        except RunFault as error:
            raise ApiError(503, str(error), kind="server_error") from None

    app.add_middleware(LimitBody, limit=limits.body_bytes)
    routes = frozenset({"/", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/completions"})
    app.add_middleware(MeasureRequests, metrics=metrics, routes=routes)
    return app


class _Events(StreamingResponse):
    """A stream of server-sent events that ends its job however the connection ends."""

    def __init__(self, events: AsyncIterator[str], job: Job) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def _measured(
    job: Job, request: Request, metrics: Metrics, name: str, start: float
) -> AsyncIterator[Piece]:
    """The job's pieces, counted; ends when the client leaves."""
    texts = ended = False
    try:
        async with contextlib.aclosing(job.pieces(request.is_disconnected)) as pieces:
            async for piece in pieces:
                metrics.tokens.labels(name).inc(piece.tokens)
                if piece.text and not texts:
                    texts = True
                    metrics.first_token.labels(name).observe(time.perf_counter() - start)
                yield piece
            ended = job.complete
    finally:
        job.cancel()
        if not ended:
            metrics.cancelled.labels(name).inc()


def _model(engines: Mapping[str, TextGenerator], name: str | None) -> str:
    if name is None and len(engines) == 1:
        return next(iter(engines))
    if name is None:
        raise ApiError(
            400, f"model: required where several are served; {suggest('', engines)}", param="model"
        )
    if name not in engines:
        raise ApiError(
            404,
            f"model {name!r} is not served; {suggest(name, engines)}",
            param="model",
            code="model_not_found",
        )
    return name


def _check(body: CompletionRequest, limits: Limits) -> None:
    """Refuse what is legal but more than this server takes on."""
    prompts = body.prompts()
    if not prompts:
        raise ApiError(400, "prompt: the list is empty; give one prompt or more", param="prompt")
    rows = len(prompts) * max(body.n, body.num_beams)
    if rows > limits.completions:
        raise ApiError(
            400,
            f"{len(prompts)} prompts with {max(body.n, body.num_beams)} completions each are {rows}; "
            f"this server takes {limits.completions} a request",
            param="n",
        )
    if body.max_tokens > limits.tokens:
        raise ApiError(
            400,
            f"max_tokens = {body.max_tokens}: this server generates {limits.tokens} at most",
            param="max_tokens",
        )
    if body.best_of not in (None, body.n):
        raise ApiError(400, f"best_of = {body.best_of}: is not supported; use num_beams", param="best_of")
