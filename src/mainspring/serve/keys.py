"""API keys: requests without one of them are refused, but for the probes and the page."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mainspring.errors import UsageError
from mainspring.serve.errors import error_body

OPEN = frozenset({"/", "/healthz", "/readyz"})
"""Paths that ask for no key: the page holds no data, and probes have none."""
SHORTEST = 16
"""Characters of a key, at least."""


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file, one a line; empty lines and those after # do not count.

    Raises:
        UsageError: it cannot be read, or has no key, or one that is short or holds what a header cannot.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the file of API keys cannot be read: {error}") from error
    keys = tuple(line for line in (line.strip() for line in lines) if line and not line.startswith("#"))
    if not keys:
        raise UsageError(f"{path}: holds no API key; write one a line")
    for number, key in enumerate(keys, start=1):
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError(
                f"{path}: key {number} has {len(key)} characters; a key is {SHORTEST} or more visible ASCII "
                "characters without a space"
            )
    return keys


class RequireKey:
    """ASGI middleware: `Authorization: Bearer KEY`, compared in constant time."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._known(scope):
            response = JSONResponse(
                error_body(
                    "a key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                    "authentication_error",
                    code="invalid_api_key",
                ),
                401,
                headers={"www-authenticate": "Bearer"},
            )
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        # Every key is compared, so that the time does not tell which one is near.
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)
