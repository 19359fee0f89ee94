"""A line of JSON for each request, and the number that ties it to what the client was answered."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NUMBER = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""What a client may call its request; in place of anything else comes a number of ours."""


class LogRequests:
    """ASGI middleware: numbers requests (`x-request-id`) and writes a line about each when it has ended."""

    def __init__(self, app: ASGIApp, write: Callable[[str], object] | None) -> None:
        """`write` takes a line of JSON without its end; None writes nothing."""
        self._app, self._write = app, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        number = given if NUMBER.fullmatch(given) else uuid.uuid4().hex.encode()
        facts: dict[str, Any] = scope.setdefault("state", {}).setdefault("log", {})
        start, status, size = time.perf_counter(), 500, 0

        async def watch(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", number)]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            if self._write is not None:
                client = scope.get("client")
                line = {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "request": number.decode(),
                    "client": client[0] if client else None,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(time.perf_counter() - start, 6),
                    "bytes": size,
                    **facts,
                }
                self._write(json.dumps(line, ensure_ascii=True))
