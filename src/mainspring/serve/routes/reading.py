"""POST /v1/embeddings, /v1/rerank, /v1/classify: what a model finds in texts."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from torch import Tensor

from mainspring.serve.errors import ApiError
from mainspring.serve.reading_schema import ClassifyRequest, EmbeddingRequest, RerankRequest
from mainspring.serve.service import Reading, Service


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        """Vectors of texts."""
        name, texts = service.name(body.model), body.texts()
        reading = service.reading(name, texts, "input")
        found = await service.within(request, lambda: reading.embed(texts))
        width = found[0][0].shape[0]
        if body.dimensions not in (None, width):
            raise ApiError(
                400,
                f"dimensions = {body.dimensions}: this model's vectors have {width}; leave it out",
                param="dimensions",
            )
        data = [
            {"object": "embedding", "index": k, "embedding": _numbers(vector, body.encoding_format)}
            for k, (vector, _) in enumerate(found)
        ]
        usage = _usage(service, request, name, sum(tokens for _, tokens in found))
        return {"object": "list", "data": data, "model": name, "usage": usage}

    @routes.post("/v1/rerank")
    async def rerank(body: RerankRequest, request: Request) -> dict[str, Any]:
        """Documents in the order in which they answer a query, best first."""
        name, texts = service.name(body.model), body.texts()
        reading = service.reading(name, texts, "documents")
        scores, tokens = await service.within(request, lambda: _relevance(reading, body.query, texts))
        best = sorted(range(len(texts)), key=lambda k: (-scores[k], k))[: body.top_n]
        results = [
            {
                "index": k,
                "relevance_score": scores[k],
                **({"document": {"text": texts[k]}} if body.return_documents else {}),
            }
            for k in best
        ]
        usage = _usage(service, request, name, tokens)
        return {"id": f"rerank-{uuid.uuid4().hex}", "model": name, "results": results, "usage": usage}

    @routes.post("/v1/classify")
    async def classify(body: ClassifyRequest, request: Request) -> dict[str, Any]:
        """Classes of texts, or of pairs of texts."""
        name, texts = service.name(body.model), body.texts()
        reading = service.reading(name, texts, "input")
        found = await service.within(request, lambda: reading.classify(texts))
        data = [
            {"index": k, "label": one.label, "score": one.score, "scores": dict(one.scores)}
            for k, one in enumerate(found)
        ]
        counts = await asyncio.to_thread(reading.reader.count, texts)
        usage = _usage(service, request, name, sum(counts))
        return {"object": "list", "data": data, "model": name, "usage": usage}

    return routes


async def _relevance(reading: Reading, query: str, texts: Sequence[str]) -> tuple[list[float], int]:
    """How well each text answers a query: of a model that reads both together, a probability; of one that
    gives vectors, their cosine. And the tokens read."""
    if reading.reader.ranks:
        pairs = [(query, text) for text in texts]
        scores = torch.tensor(await reading.score(pairs), dtype=torch.float64).sigmoid()
        return scores.tolist(), sum(await asyncio.to_thread(reading.reader.count, pairs))
    found = await reading.embed([query, *texts])
    vectors = torch.nn.functional.normalize(torch.stack([vector for vector, _ in found]).double(), dim=-1)
    return (vectors[1:] @ vectors[0]).tolist(), sum(tokens for _, tokens in found)


def _numbers(vector: Tensor, form: str) -> list[float] | str:
    floats = vector.to(torch.float32)
    if form == "float":
        numbers: list[float] = floats.tolist()
        return numbers
    return base64.b64encode(floats.numpy().astype("<f4").tobytes()).decode()


def _usage(service: Service, request: Request, name: str, tokens: int) -> dict[str, int]:
    service.metrics.prompt_tokens.labels(name).inc(tokens)
    log = request.scope.setdefault("state", {}).setdefault("log", {})
    log.update(model=name, prompt_tokens=tokens)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
