"""POST /v1/completions and /v1/chat/completions: text, all at once or as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mainspring.infer.completion import Piece
from mainspring.infer.options import MAX_SEED, GenerateOptions
from mainspring.serve.chat_schema import ChatRequest
from mainspring.serve.completions import Answer, ChatAnswer, CompletionAnswer
from mainspring.serve.errors import ApiError, busy
from mainspring.serve.limits import Limits
from mainspring.serve.metrics import Metrics
from mainspring.serve.schema import CompletionRequest, Writing
from mainspring.serve.service import Service
from mainspring.serve.worker import Full, Job

CHAT_TOKENS = 512
"""Tokens of a chat's answer at most, where the request does not say."""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response | dict[str, Any]:
        """Continue text."""
        name = service.name(body.model)
        prompts = body.prompts()
        _check(body, len(prompts), body.max_tokens, service.limits)
        if not prompts:
            raise ApiError(400, "prompt: the list is empty; give one prompt or more", param="prompt")
        if body.best_of not in (None, body.n):
            raise ApiError(400, f"best_of = {body.best_of}: is not supported; use num_beams", param="best_of")
        options = body.options(seed=secrets.randbelow(MAX_SEED))
        job = await _submit(service, name, prompts, options, request)
        answer = CompletionAnswer(
            model=name,
            n=options.n,
            prompt_tokens=job.prepared.prompt_tokens,
            logprobs=body.logprobs is not None,
        )
        return await _respond(service, name, job, answer, body, request)

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response | dict[str, Any]:
        """Answer the last message of a conversation."""
        name = service.name(body.model)
        service.worker(name)
        template = service.models[name].template
        if template is None:
            raise ApiError(
                400,
                f"model {name!r} writes from sources and takes no conversation; use /v1/completions",
                param="model",
                code="wrong_model",
            )
        limit = min(CHAT_TOKENS, service.limits.tokens)
        _check(body, 1, body.limit or limit, service.limits)
        messages = [
            {"role": m.role, "content": m.text, **({} if m.name is None else {"name": m.name})}
            for m in body.messages
        ]
        prompt = await asyncio.to_thread(
            template.encode, messages, add_generation_prompt=body.add_generation_prompt
        )
        options = body.options(secrets.randbelow(MAX_SEED), limit, template.stops)
        job = await _submit(service, name, [prompt], options, request)
        answer = ChatAnswer(
            model=name, n=options.n, prompt_tokens=job.prepared.prompt_tokens, logprobs=body.logprobs
        )
        return await _respond(service, name, job, answer, body, request)

    return routes


async def _submit(
    service: Service,
    name: str,
    prompts: Sequence[str | Sequence[int]],
    options: GenerateOptions,
    request: Request,
) -> Job:
    worker, deadline = service.worker(name), service.deadline(request)
    prepared = await asyncio.to_thread(worker.prepare, prompts, options)
    try:
        job = worker.submit(prepared, deadline)
    except Full as error:
        raise busy(str(error), error.retry_after) from None
    service.metrics.prompt_tokens.labels(name).inc(sum(prepared.prompt_tokens))
    return job


async def _respond(
    service: Service, name: str, job: Job, answer: Answer, body: Writing, request: Request
) -> Response | dict[str, Any]:
    pieces = _measured(job, request, service.metrics, name, answer)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return _Events(answer.events(pieces, usage=usage), job)
    return await answer.whole(pieces)


class _Events(StreamingResponse):
    """A stream of server-sent events that ends its job however the connection ends."""

    def __init__(self, events: AsyncIterator[str], job: Job) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def _measured(
    job: Job, request: Request, metrics: Metrics, name: str, answer: Answer
) -> AsyncIterator[Piece]:
    """The job's pieces, counted; ends when the client leaves."""
    start: float = request.scope["mainspring.start"]
    last: float | None = None
    ended = False
    try:
        async with contextlib.aclosing(job.pieces(request.is_disconnected)) as pieces:
            async for piece in pieces:
                metrics.tokens.labels(name).inc(piece.tokens)
                if piece.text:
                    now = time.perf_counter()
                    if last is None:
                        metrics.first_token.labels(name).observe(now - start)
                    else:
                        metrics.inter_token.labels(name).observe(now - last)
                    last = now
                yield piece
            ended = job.complete
    finally:
        job.cancel()
        request.scope.setdefault("state", {}).setdefault("log", {}).update(
            model=name, **answer.usage(), finished=ended
        )
        if not ended:
            metrics.cancelled.labels(name).inc()


def _check(body: Writing, prompts: int, tokens: int, limits: Limits) -> None:
    """Refuse what is legal but more than this server takes on."""
    each = max(body.n, body.num_beams)
    if prompts * each > limits.completions:
        raise ApiError(
            400,
            f"{prompts} prompts with {each} completions each are {prompts * each}; "
            f"this server takes {limits.completions} a request",
            param="n",
        )
    if tokens > limits.tokens:
        raise ApiError(
            400, f"max_tokens = {tokens}: this server generates {limits.tokens} at most", param="max_tokens"
        )
