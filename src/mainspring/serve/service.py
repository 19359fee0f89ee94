"""Service: what the routes share: models with their threads and queues, limits, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from fastapi import Request
from torch import Tensor

from mainspring.errors import suggest
from mainspring.infer.batching import DeadlineError
from mainspring.serve.errors import ApiError, busy
from mainspring.serve.gather import Gather
from mainspring.serve.limits import Limits
from mainspring.serve.metrics import Metrics
from mainspring.serve.models import Classified, Model, Reads, Texts
from mainspring.serve.worker import Worker

BATCH = 64
"""Texts that are read in one go."""
Kind = TypeVar("Kind")
Found = TypeVar("Found")
Item = str | tuple[str, str]
"""A text or a pair."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The queues of a model that reads."""

    reader: Reads
    embed: Gather[Item, tuple[Tensor, int]]
    """Vector [width] and tokens of each text."""
    classify: Gather[Item, Classified]
    score: Gather[Item, float]


class Service:
    """Models by name, from the start of the application to its end."""

    def __init__(self, models: Mapping[str, Model], limits: Limits) -> None:
        self.models, self.limits, self.metrics = models, limits, Metrics()
        self.workers: dict[str, Worker] = {}
        self.readings: dict[str, Reading] = {}
        self.created = int(time.time())
        self.draining = False
        """Whether the server finishes what it has and takes nothing new."""

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        started = bool(self.workers or self.readings)
        return started and not self.draining and all(worker.alive for worker in self.workers.values())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the threads and queues; end them."""
        for name, model in self.models.items():
            turn = threading.Lock()  # a model is used by one thread at a time
            if model.writer is not None:
                self.workers[name] = Worker(
                    name,
                    model.writer,
                    capacity=self.limits.waiting,
                    watch=partial(self.metrics.observe, name),
                    turn=turn,
                )
            if model.reader is not None:
                self.readings[name] = self._reading(name, model.reader, turn)
        yield
        self.draining = True
        for reading in self.readings.values():
            for queue in (reading.embed, reading.classify, reading.score):
                await queue.close()
        for worker in self.workers.values():
            await asyncio.to_thread(worker.close)

    def drain(self) -> None:
        """Take nothing new and finish what there is."""
        self.draining = True

    def end(self) -> None:
        """End what is being written; who waits for it is told."""
        for worker in self.workers.values():
            worker.end()

    def name(self, asked: str | None) -> str:
        """The model that a request means; one that is alone need not be named.

        Raises:
            ApiError: there is no such model, or there are several and none is named.
        """
        if asked is None and len(self.models) == 1:
            return next(iter(self.models))
        if asked is None:
            raise ApiError(
                400, f"model: required where several are served; {suggest('', self.models)}", param="model"
            )
        if asked not in self.models:
            raise ApiError(
                404,
                f"model {asked!r} is not served; {suggest(asked, self.models)}",
                param="model",
                code="model_not_found",
            )
        return asked

    def worker(self, name: str) -> Worker:
        """What writes for a model.

        Raises:
            ApiError: it does not write, or the server is not ready.
        """
        return self._started(name, self.workers, self.models[name].writer, "write text")

    def reading(self, name: str, texts: Sequence[object], param: str) -> Reading:
        """What reads for a model, with room for some texts.

        Raises:
            ApiError: it does not read, or the server is not ready; the texts are more than the server takes;
                too many wait.
        """
        reading = self._started(name, self.readings, self.models[name].reader, "embed or classify texts")
        if not texts:
            raise ApiError(400, f"{param}: the list is empty; give one text or more", param=param)
        if len(texts) > self.limits.texts:
            raise ApiError(
                400,
                f"{param}: {len(texts)} texts; this server takes {self.limits.texts} a request",
                param=param,
            )
        if any(queue.full for queue in (reading.embed, reading.classify, reading.score)):
            raise busy("many texts wait already", 1)
        return reading

    def deadline(self, request: Request) -> float:
        """When a request has to be done, by `time.monotonic`.

        Raises:
            ApiError: the header that says so is not a number of seconds.
        """
        given = request.headers.get("x-request-timeout")
        seconds = self.limits.seconds
        if given is not None:
            try:
                wanted = float(given)
            except ValueError:
                wanted = -1.0
            if not 0 < wanted < float("inf"):
                raise ApiError(
                    400, f"x-request-timeout: {given[:40]!r} is not a number of seconds above 0"
                ) from None
            seconds = min(seconds, wanted)
        return time.monotonic() + seconds

    async def within(self, request: Request, work: Callable[[], Awaitable[Found]]) -> Found:
        """What `work` gives, if it does by the request's deadline.

        Raises:
            ApiError: as `deadline`.
            DeadlineError: it does not.
        """
        left = self.deadline(request) - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await work()
        except TimeoutError as error:
            raise DeadlineError(f"not done within {left:.3g} s; send fewer texts at a time") from error

    def _started(self, name: str, running: Mapping[str, Kind], ability: object, what: str) -> Kind:
        if ability is None:
            can = ", ".join(self.models[name].abilities) or "nothing"
            raise ApiError(
                400, f"model {name!r} does not {what}; it answers: {can}", param="model", code="wrong_model"
            )
        if name not in running or self.draining:
            state = "stopping" if self.draining else "starting"
            raise ApiError(503, f"the server is {state}; try again soon", kind="server_error")
        return running[name]

    def _reading(self, name: str, reader: Reads, turn: threading.Lock) -> Reading:
        def vectors(texts: Sequence[str]) -> list[tuple[Tensor, int]]:
            found = reader.embed(texts)
            return list(zip(found.vectors, found.tokens, strict=True))

        def queue(read: Callable[[Sequence[Item]], Sequence[Found]]) -> Gather[Item, Found]:
            watch = self.metrics.batch_size.labels(name).observe
            waiting = self.limits.waiting * BATCH
            return Gather(read, _length, most=BATCH, waiting=waiting, turn=turn, watch=watch)

        return Reading(
            reader,
            queue(lambda texts: vectors([text for text in texts if isinstance(text, str)])),
            queue(lambda texts: _by_kind(texts, reader.classify)),
            queue(lambda texts: _by_kind(texts, reader.score)),
        )


def _length(item: Item) -> int:
    return len(item) if isinstance(item, str) else len(item[0]) + len(item[1])


def _by_kind(items: Sequence[Item], read: Callable[[Texts], Sequence[Found]]) -> list[Found]:
    """What is found of texts and of pairs, which are read apart, in the order of the items."""
    texts = [item for item in items if isinstance(item, str)]
    pairs = [item for item in items if not isinstance(item, str)]
    of_texts = iter(read(texts) if texts else ())
    of_pairs = iter(read(pairs) if pairs else ())
    return [next(of_texts if isinstance(item, str) else of_pairs) for item in items]
