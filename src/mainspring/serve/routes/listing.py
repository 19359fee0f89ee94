"""GET /v1/models: what is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mainspring.serve.service import Service


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    def describe(name: str) -> dict[str, Any]:
        model = service.models[name]
        about: dict[str, Any] = {"abilities": list(model.abilities)}
        if model.template is not None:
            about["chat_template"] = "default" if model.template.is_default else "tokenizer"
        if model.writer is not None:
            about["batching"] = model.alone or f"up to {model.writer.width} side by side"
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "mainspring",
            "mainspring": about,
        }

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served."""
        return {"object": "list", "data": [describe(name) for name in service.models]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of the models."""
        return describe(service.name(name))

    return routes
