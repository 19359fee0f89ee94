"""What a server counts, in a registry of its own, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Content type of `Metrics.text`."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters of one app."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "mainspring_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            "mainspring_request_seconds",
            "Time to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "mainspring_first_text_seconds",
            "Time from the request to its first text.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "mainspring_in_flight", "Completions that run or wait.", ["model"], registry=registry
        )
        self.prompt_tokens = Counter(
            "mainspring_prompt_tokens", "Tokens of prompts.", ["model"], registry=registry
        )
        self.tokens = Counter(
            "mainspring_generated_tokens", "Tokens generated.", ["model"], registry=registry
        )
        self.cancelled = Counter(
            "mainspring_cancelled",
            "Completions whose client left before the end.",
            ["model"],
            registry=registry,
        )

    def text(self) -> bytes:
        """The present values in Prometheus' text format."""
        return generate_latest(self.registry)


class MeasureRequests:
    """ASGI middleware that counts and times requests by route; unknown paths share one label."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = 500
        start = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.latency.labels(route).observe(time.perf_counter() - start)
