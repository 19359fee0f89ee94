"""Limits of a server, and the middleware that refuses a body that is too large."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainspring.serve.errors import error_body


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on."""

    body_bytes: int = 1 << 20
    """Size of a request's body."""
    completions: int = 64
    """Completions of one request: prompts times `n` (or times beams)."""
    tokens: int = 4096
    """`max_tokens` of one request."""
    waiting: int = 64
    """Requests that may wait for one model; more are told to come again."""
    texts: int = 512
    """Texts, pairs or documents of one request that is not about writing."""
    seconds: float = 300.0
    """Time that a request may take; a client asks for less with the header x-request-timeout."""


class LimitBody:
    """ASGI middleware: a body above the limit is answered with 413, whatever length it declares."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self._limit:
            await self._refuse(scope, receive, send)
            return
        # A body without a declared length is read here, up to the limit, and handed on whole.
        size = 0
        messages: list[Message] = []
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._limit:
                await self._refuse(scope, receive, send)
                return
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        queue = iter(messages)

        async def again() -> Message:
            return next(queue, None) or await receive()

        await self._app(scope, again, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the body is larger than {self._limit} bytes; send less"
        response = JSONResponse(
            error_body(message, "invalid_request_error", code="body_too_large"),
            413,
            headers={"connection": "close"},
        )
        await response(scope, receive, send)
