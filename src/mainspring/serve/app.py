"""The HTTP application: OpenAI-shaped routes over models, health, metrics, and a page to type into."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from mainspring.serve import page
from mainspring.serve.chat_schema import ChatRequest
from mainspring.serve.errors import install
from mainspring.serve.keys import RequireKey
from mainspring.serve.limits import LimitBody, Limits
from mainspring.serve.metrics import MeasureRequests
from mainspring.serve.models import Model
from mainspring.serve.reading_schema import ClassifyRequest, EmbeddingRequest, RerankRequest
from mainspring.serve.request_log import LogRequests
from mainspring.serve.routes import listing, probes, reading, spelling, writing
from mainspring.serve.schema import Body, CompletionRequest
from mainspring.serve.service import Service
from mainspring.serve.spelling import Spelling, SpellRequest

BODIES: Mapping[str, type[Body]] = MappingProxyType(
    {
        "/v1/completions": CompletionRequest,
        "/v1/chat/completions": ChatRequest,
        "/v1/embeddings": EmbeddingRequest,
        "/v1/rerank": RerankRequest,
        "/v1/classify": ClassifyRequest,
        "/v1/spell": SpellRequest,
    }
)
"""What each path takes."""
_OTHERS = frozenset({"/", "/healthz", "/readyz", "/metrics", "/v1/models"})


def create_app(
    models: Mapping[str, Model],
    *,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    log: Callable[[str], object] | None = None,
) -> FastAPI:
    """Serve `models` by name.

    Routes: POST /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/rerank, /v1/classify, /v1/spell,
    GET /v1/models, /v1/models/NAME, /healthz, /readyz, /metrics and the page at /. Each model that writes
    has one thread; the threads start and end with the application. `app.state.service` is what the routes
    share.

    Args:
        models: one or more; a request names its model, or leaves it out where there is one.
        limits: what is refused (None: the defaults of `Limits`).
        keys: API keys, of which a request has to bring one; without any, none is asked for.
        log: takes a line of JSON about each request.
    """
    assert models, "a server needs a model"
    limits = limits or Limits()
    service = Service(models, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="Mainspring", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    install(app, BODIES)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page.HTML, headers=page.HEADERS)

    for routes in (probes, listing, writing, reading):
        app.include_router(routes.router(service))
    app.include_router(spelling.router(service, Spelling()))
    # The last that is added is the first to see a request.
    app.add_middleware(LimitBody, limit=limits.body_bytes)
    if keys:
        app.add_middleware(RequireKey, keys=keys)
    app.add_middleware(MeasureRequests, metrics=service.metrics, routes=_OTHERS | set(BODIES))
    app.add_middleware(LogRequests, write=log)
    return app
