"""Errors in the shape of Azure AI Search: {"error": {"code", "message"}}."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mainspring.errors import DiskError, SearchIndexError, UsageError

logger = logging.getLogger(__name__)


class SearchApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


def body(message: str, code: str = "") -> dict[str, dict[str, str]]:
    """The error object."""
    return {"error": {"code": code, "message": message}}


def install(app: FastAPI) -> None:
    """Answer every failure of `app` with an error object."""

    @app.exception_handler(SearchApiError)
    async def _api(request: Request, error: SearchApiError) -> JSONResponse:
        return JSONResponse(body(str(error), error.code), error.status, headers=error.headers)

    @app.exception_handler(SearchIndexError)
    async def _index(request: Request, error: SearchIndexError) -> JSONResponse:
        # Another process writes, or a file is damaged: not the client's doing.
        return JSONResponse(body(str(error), "ServiceUnavailable"), 503)

    @app.exception_handler(UsageError)
    async def _usage(request: Request, error: UsageError) -> JSONResponse:
        return JSONResponse(body(f"Invalid expression: {error}", "InvalidRequestParameter"), 400)

    @app.exception_handler(DiskError)
    async def _disk(request: Request, error: DiskError) -> JSONResponse:
        return JSONResponse(body(str(error), "InsufficientStorage"), 507)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(body(explain(error), "InvalidRequestParameter"), 400)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        messages = {
            404: f"there is nothing at {request.method} {request.url.path}",
            405: f"{request.method} is not allowed at {request.url.path}",
        }
        return JSONResponse(
            body(messages.get(error.status_code, str(error.detail))), error.status_code, headers=error.headers
        )

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> JSONResponse:
        # The server's log has the trace; a stranger is not told about our insides.
        return JSONResponse(
            body("the server failed to answer; its log has the cause", "InternalServerError"), 500
        )


def explain(error: RequestValidationError) -> str:
    """What is wrong with a request, in one line."""
    fault = error.errors()[0]
    place = [str(part) for part in fault["loc"] if part not in ("body", "query", "path")]
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        return (
            f"The request is invalid: the body is not valid JSON: {fault.get('ctx', {}).get('error', reason)}"
        )
    if fault["type"] == "extra_forbidden":
        return f"The request is invalid: {place[-1]!r} in the request payload is not a valid parameter"
    if not place:
        return f"The request is invalid: {reason}"
    if fault["type"] == "missing":
        return f"The request is invalid: {'.'.join(place)} is required and not given"
    given = ascii(fault.get("input"))[:80]
    return f"The request is invalid: {'.'.join(place)} = {given}: {reason}"
