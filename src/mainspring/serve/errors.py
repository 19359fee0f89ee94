"""Errors in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from mainspring.errors import RunFault, UsageError, suggest
from mainspring.infer.batching import DeadlineError


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.body = error_body(message, kind, param, code)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def busy(message: str, retry_after: int) -> ApiError:
    """The answer where there is no room."""
    return ApiError(
        429,
        f"the server is busy: {message}; try again in {retry_after} s",
        code="busy",
        kind="rate_limit_error",
        headers={"retry-after": str(retry_after)},
    )


def install(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> None:
    """Answer every failure of `app` with an error object; `bodies` are what its paths take."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(UsageError)
    async def _usage(request: Request, error: UsageError) -> JSONResponse:
        return JSONResponse(error_body(str(error), "invalid_request_error"), 400)

    @app.exception_handler(DeadlineError)
    async def _late(request: Request, error: DeadlineError) -> JSONResponse:
        return JSONResponse(error_body(str(error), "timeout_error", code="deadline"), 504)

    @app.exception_handler(RunFault)
    async def _run(request: Request, error: RunFault) -> JSONResponse:
        return JSONResponse(error_body(str(error), "server_error"), 503)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        body = bodies.get(request.url.path)
        message, param = explain(error, () if body is None else body.model_fields)
        return JSONResponse(error_body(message, "invalid_request_error", param), 400)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = f"there is nothing at {request.method} {request.url.path}"
        if error.status_code == 405:
            message = f"{request.method} is not allowed at {request.url.path}"
        body = error_body(
            message, "invalid_request_error", code="not_found" if error.status_code == 404 else None
        )
        return JSONResponse(body, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> JSONResponse:
        # The server's log has the trace; a stranger is not told about our insides.
        return JSONResponse(
            error_body("the server failed to answer; its log has the cause", "server_error"), 500
        )


def explain(error: RequestValidationError, fields: Iterable[str]) -> tuple[str, str | None]:
    """What is wrong with a request, in one line, and the field concerned; `fields` are all there are."""
    faults = error.errors()
    # Of a union every member complains; what one of our own checks says is the most telling.
    fault = next((f for f in faults if f["type"] == "value_error"), faults[0])
    # A member of a union stands in the place too, by the name of its type.
    place = [str(part) for part in fault["loc"] if part != "body" and "[" not in str(part)]
    if fault["type"] == "json_invalid":
        return f"the body is not valid JSON: {fault.get('ctx', {}).get('error', fault['msg'])}", None
    if not place:
        return f"the body should be a JSON object with content type application/json: {fault['msg']}", None
    field = place[0]
    if fault["type"] == "extra_forbidden":
        name = place[-1]
        return (f"unrecognized request argument: {name!r}; {suggest(name, fields)}", name)
    if fault["type"] == "missing":
        return f"{field}: required and not given", field
    if field == "prompt" and fault["type"] != "value_error":
        return (
            "prompt: should be a string, a list of strings, a list of tokens, or a list of lists of tokens",
            field,
        )
    reason = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    given = repr(fault.get("input"))
    return f"{'.'.join(place)} = {given[:80]}: should be {reason}".replace("should be is", "is").replace(
        "should be should", "should"
    ), field
