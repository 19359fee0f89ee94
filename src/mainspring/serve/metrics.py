"""What a server counts, in a registry of its own, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainspring.infer.batching import BatchStats

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
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
        self.inter_token = Histogram(
            "mainspring_inter_token_seconds",
            "Time between two pieces of text of one completion request.",
            ["model"],
            buckets=_SHORT,
            registry=registry,
        )
        self.batch_size = Histogram(
            "mainspring_batch_size",
            "Completions written, or texts read, in one step.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "mainspring_queue_depth", "Prompts that wait for a slot.", ["model"], registry=registry
        )
        self.kv_tokens = Gauge(
            "mainspring_kv_tokens", "Tokens whose keys and values are held.", ["model"], registry=registry
        )
        self.kv_bytes = Gauge(
            "mainspring_kv_bytes", "Bytes of buffers for keys and values.", ["model", "of"], registry=registry
        )
        self.prefix_tokens = Gauge(
            "mainspring_prompt_tokens_by_source",
            "Tokens of prompts that were read, or taken from a kept prefix.",
            ["model", "source"],
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

    def observe(self, model: str, stats: BatchStats) -> None:
        """Take down the state of a running batch."""
        if stats.writing:
            self.batch_size.labels(model).observe(stats.writing)
        self.queue_depth.labels(model).set(stats.waiting)
        self.kv_tokens.labels(model).set(stats.tokens)
        self.kv_bytes.labels(model, "slots").set(stats.cache_bytes)
        self.kv_bytes.labels(model, "prefixes").set(stats.prefix_bytes)
        self.prefix_tokens.labels(model, "read").set(stats.prompt_tokens)
        self.prefix_tokens.labels(model, "prefix").set(stats.reused_tokens)

    def text(self) -> bytes:
        """The present values in Prometheus' text format."""
        return generate_latest(self.registry)


class MeasureRequests:
    """ASGI middleware that counts and times requests by route; unknown paths share one label."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; `scope["mainspring.start"]` is when it came, by `time.perf_counter`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = 500
        start = scope["mainspring.start"] = time.perf_counter()

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
