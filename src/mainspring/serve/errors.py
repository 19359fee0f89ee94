"""Errors in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mainspring.errors import UsageError, suggest
from mainspring.serve.schema import CompletionRequest


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


def install(app: FastAPI) -> None:
    """Answer every failure of `app` with an error object."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(UsageError)
    async def _usage(request: Request, error: UsageError) -> JSONResponse:
        return JSONResponse(error_body(str(error), "invalid_request_error"), 400)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        message, param = explain(error)
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


def explain(error: RequestValidationError) -> tuple[str, str | None]:
    """What is wrong with a request, in one line, and the field concerned."""
    faults = error.errors()
    # Of a union every member complains; what one of our own checks says is the most telling.
    fault = next((f for f in faults if f["type"] == "value_error"), faults[0])
    place = [str(part) for part in fault["loc"] if part != "body"]
    if fault["type"] == "json_invalid":
        return f"the body is not valid JSON: {fault.get('ctx', {}).get('error', fault['msg'])}", None
    if not place:
        return f"the body should be a JSON object with content type application/json: {fault['msg']}", None
    field = place[0]
    if fault["type"] == "extra_forbidden":
        name = place[-1]
        return (
            f"unrecognized request argument: {name!r}; {suggest(name, CompletionRequest.model_fields)}",
            name,
        )
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
