"""GET /healthz, /readyz, /metrics: for whoever runs the server."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from mainspring.serve.metrics import CONTENT_TYPE
from mainspring.serve.service import Service


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def ready() -> JSONResponse:
        """Whether requests are taken."""
        good = service.ready
        return JSONResponse({"status": "ready" if good else "not ready"}, 200 if good else 503)

    @routes.get("/metrics")
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        for name, worker in service.workers.items():
            service.metrics.in_flight.labels(name).set(worker.load)
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return routes
