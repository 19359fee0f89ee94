"""The HTTP application of search: indexes by name in the shape of Azure AI Search, and a page."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from mainspring.errors import DataError, MainspringError, suggest
from mainspring.products.search import Index
from mainspring.products.search.documents import Document
from mainspring.products.spelling import Speller
from mainspring.products.suggest import PhraseModel, QueryLog
from mainspring.serve.limits import LimitBody
from mainspring.serve.metrics import CONTENT_TYPE, MeasureRequests, Metrics
from mainspring.serve.search import page, queries, shapes
from mainspring.serve.search.did_you_mean import did_you_mean
from mainspring.serve.search.errors import SearchApiError, install
from mainspring.serve.search.schema import AutocompleteRequest, Batch, SearchRequest, SuggestRequest
from mainspring.serve.search.suggestions import Suggestions

T = TypeVar("T")
logger = logging.getLogger(__name__)
_WARMING = "a query to warm up"


class Related(Protocol):
    """What People Also Ask is taken from."""

    def questions(self, query: str, limit: int) -> list[tuple[str, str, str]]:
        """Question, its answer and the key of the document that answers, near to a query."""
        ...


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """What one search server takes on."""

    body_bytes: int = 16 << 20
    """Size of a request's body (1,000 documents an upload)."""
    threads: int = 4
    """Searches at once."""
    waiting: int = 256
    """Requests that may wait; more are told to come again."""


@dataclass
class Service:
    """An index that is served, with what belongs to it."""

    index: Index
    log: QueryLog | None = None
    model: PhraseModel | None = None
    related: Related | None = None
    speller: Speller | None = None
    suggestions: Suggestions = field(init=False)

    def __post_init__(self) -> None:
        self.suggestions = Suggestions(self.index, self.log, self.model)

    def warm(self) -> None:
        """Do once what the first query would have to load: encoder, heads, speller, vocabulary of phrases."""
        self.index.warm()
        self.suggestions.suggest(_WARMING, 1)
        if self.speller is not None:
            did_you_mean(self.speller, self.index, _WARMING, None)
        if self.related is not None:
            self.related.questions(_WARMING, 1)


def create_search_app(
    services: Mapping[str, Service],
    *,
    limits: SearchLimits | None = None,
    api_key: str | None = None,
    writable: bool = True,
) -> FastAPI:
    """Serve indexes by name.

    Routes, each also in the spelling of Azure's clients (`/indexes('NAME')/docs/search.post.search`):
    POST /indexes/NAME/docs/search, /suggest, /autocomplete, /index; GET /indexes, /indexes/NAME/docs/KEY,
    /docs/$count, /stats; /healthz, /readyz, /metrics, and the page at /. Queries are taken from the start;
    /readyz answers 200 once the models are warm, so that none has to wait for them.

    Args:
        services: one or more.
        limits: what is refused.
        api_key: what clients must send in the header `api-key` (None: nothing). The page asks for it.
        writable: whether documents may be uploaded and deleted.
    """
    assert services, "a server needs an index"
    limits = limits or SearchLimits()
    metrics = Metrics()
    pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="search")
    writing = ThreadPoolExecutor(1, thread_name_prefix="search-write")
    load = _Load(limits.waiting)

    warm = asyncio.Event()

    async def warm_up() -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.gather(*(loop.run_in_executor(pool, s.warm) for s in services.values()))
        except MainspringError:
            logger.exception("the server is not ready: warming up failed")
        else:
            warm.set()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(warm_up())
        yield
        warming.cancel()
        pool.shutdown()
        writing.shutdown()

    app = FastAPI(title="Mainspring search", lifespan=lifespan, docs_url=None, redoc_url=None)
    install(app)

    async def allowed(request: Request) -> None:
        given = request.headers.get("api-key", "")
        if api_key is not None and not hmac.compare_digest(given.encode(), api_key.encode()):
            raise SearchApiError(403, "Access denied: the header 'api-key' is missing or wrong", "Forbidden")

    async def run(work: Callable[[], T], where: ThreadPoolExecutor = pool) -> T:
        with load:
            return await asyncio.get_running_loop().run_in_executor(where, work)

    def service(name: str) -> Service:
        if name not in services:
            raise SearchApiError(
                404,
                f"The index {name!r} for this service was not found; {suggest(name, services)}",
                "ResourceNotFound",
            )
        return services[name]

    guarded: dict[str, Any] = {"dependencies": [Depends(allowed)]}

    @app.get("/", include_in_schema=False)
    async def front() -> HTMLResponse:
        return HTMLResponse(page.HTML, headers=page.HEADERS)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Whether the models are warm: whoever spreads queries over servers waits for it."""
        good = warm.is_set()
        return JSONResponse({"status": "ready" if good else "not ready"}, 200 if good else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/indexes", **guarded)
    async def indexes() -> dict[str, Any]:
        """The indexes that are served."""
        return {"value": [{"name": name} for name in services]}

    async def search(name: str, body: SearchRequest) -> dict[str, Any]:
        """Find documents: by words, or with `queryType: semantic` by meaning."""
        chosen = service(name)

        def work() -> dict[str, Any]:
            answer = queries.search(chosen.index, body)
            if answer["value"] and body.skip == 0 and body.search.strip() not in ("", "*"):
                chosen.suggestions.asked(body.search)
            if chosen.speller is not None and body.speller == "lexicon" and body.skip == 0:
                meant = did_you_mean(chosen.speller, chosen.index, body.search, body.query_language)
                if meant is not None:
                    answer["@search.didYouMean"] = meant
            if chosen.related is not None and body.query_type == "semantic":
                found = chosen.related.questions(body.search, 4)
                answer["@search.questions"] = [{"question": q, "answer": a, "key": k} for q, a, k in found]
            return answer

        return await run(work)

    async def complete(name: str, body: SuggestRequest) -> dict[str, Any]:
        """Whole queries that begin as typed: past queries, titles, phrases of a model."""
        chosen = service(name)
        asyncio.get_running_loop().run_in_executor(writing, chosen.suggestions.refresh)
        found = await run(lambda: chosen.suggestions.suggest(body.search, body.top))
        before, after = body.highlight_pre_tag or "", body.highlight_post_tag or ""
        return {
            "value": [
                {"@search.text": _begun(s.text, body.search, before, after), "kind": s.kind} for s in found
            ]
        }

    async def autocomplete(name: str, body: AutocompleteRequest) -> dict[str, Any]:
        """Ways to finish the last word."""
        chosen = service(name)
        found = await run(lambda: chosen.suggestions.autocomplete(body.search, body.top))
        return {"value": [{"text": word, "queryPlusText": whole} for word, whole in found]}

    async def upload(name: str, body: Batch) -> JSONResponse:
        """Upload, merge and delete documents; they are kept and found once this answers."""
        chosen = service(name)
        if not writable:
            raise SearchApiError(
                403, "this server takes no changes (it was started with --read-only)", "Forbidden"
            )
        rows = await run(lambda: _change(chosen.index, body), writing)
        return JSONResponse({"value": rows}, 200 if all(row["status"] for row in rows) else 207)

    async def count(name: str) -> PlainTextResponse:
        """Number of documents."""
        chosen = service(name)
        return PlainTextResponse(str(await run(lambda: chosen.index.store.count("1", []))))

    async def stats(name: str) -> dict[str, Any]:
        """Documents, passages, vectors and languages of an index."""
        chosen = service(name)
        counts = await run(chosen.index.store.counts)
        languages = await run(chosen.index.store.languages)
        return {"documentCount": counts["documents"], **counts, "languages": languages}

    async def lookup(
        name: str, key: str, select: Annotated[str, Query(alias="$select")] = ""
    ) -> dict[str, Any]:
        """One document."""
        chosen = service(name)
        found = await run(lambda: chosen.index.store.find(key))
        if found is None:
            raise SearchApiError(404, f"the index {name!r} has no document {key!r}", "ResourceNotFound")
        names = [part.strip() for part in select.split(",") if part.strip()]
        return await run(lambda: shapes.shown(chosen.index, found, names))

    def both(path: str, also: str, method: str, endpoint: Callable[..., Any]) -> None:
        app.add_api_route(f"/indexes/{{name}}/{path}", endpoint, methods=[method], **guarded)
        app.add_api_route(
            f"/indexes('{{name}}')/{also}", endpoint, methods=[method], include_in_schema=False, **guarded
        )

    both("docs/search", "docs/search.post.search", "POST", search)
    both("docs/suggest", "docs/search.post.suggest", "POST", complete)
    both("docs/autocomplete", "docs/search.post.autocomplete", "POST", autocomplete)
    both("docs/index", "docs/search.index", "POST", upload)
    both("docs/$count", "docs/$count", "GET", count)
    both("stats", "search.stats", "GET", stats)
    both("docs/{key:path}", "docs('{key:path}')", "GET", lookup)
    app.add_middleware(LimitBody, limit=limits.body_bytes)
    app.add_middleware(
        MeasureRequests,
        metrics=metrics,
        routes=frozenset({"/", "/healthz", "/readyz", "/metrics", "/indexes"}),
    )
    return app


class _Load:
    """Counts requests under way, and refuses those that are too many."""

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    def __enter__(self) -> None:
        if self._now >= self._most:
            raise SearchApiError(
                503,
                f"the server is busy: {self._now} requests wait; try again soon",
                "ServiceUnavailable",
                {"retry-after": "1"},
            )
        self._now += 1

    def __exit__(self, *_: object) -> None:
        self._now -= 1


def _begun(text: str, typed: str, before: str, after: str) -> str:
    """A suggestion with what was typed of it between tags, where tags are given."""
    length = len(typed) if text.casefold().startswith(typed.casefold()) else 0
    return f"{before}{text[:length]}{after}{text[length:]}" if length and (before or after) else text


def _change(index: Index, batch: Batch) -> list[dict[str, Any]]:
    """Carry a batch out in order; what became of each document."""
    rows: list[dict[str, Any]] = []
    changed: dict[str, Document | None] = {}
    for row in batch.value:
        action = row.get(shapes.ACTION, "upload")
        key = str(row.get("id", ""))
        try:
            if action == "delete":
                changed[key] = None
                rows.append(_status(key, 200))
                continue
            if action not in ("upload", "merge", "mergeOrUpload"):
                raise DataError(
                    f"{shapes.ACTION} = {action!r}: should be upload, merge, mergeOrUpload or delete"
                )
            held = None if action == "upload" else _held(index, row, changed)
            if action == "merge" and held is None:
                rows.append(_status(key, 404, "Document not found."))
                continue
            document = shapes.document_of(held or row)
            known = index.store.find(key) is not None or changed.get(key) is not None
            changed[key] = document
            rows.append(_status(key, 200 if known else 201))
        except DataError as error:
            rows.append(_status(key, 400, str(error)))
    documents = [document for document in changed.values() if document is not None]
    deleted = [key for key, document in changed.items() if document is None]
    if documents or deleted:
        index.change(documents, deleted)
    return rows


def _held(
    index: Index, row: Mapping[str, Any], changed: Mapping[str, Document | None]
) -> dict[str, Any] | None:
    """A row with what its document has beside it, changes of the same batch included."""
    key = str(row.get("id", ""))
    if key not in changed:
        return shapes.merged(index, row)
    document = changed[key]
    if document is None:
        return None
    values = {name: getattr(document, ours) for name, ours in shapes.NAMES.items()}
    return {**values, **document.fields, **row}


def _status(key: str, code: int, message: str | None = None) -> dict[str, Any]:
    return {"key": key, "status": code < 300, "errorMessage": message, "statusCode": code}
