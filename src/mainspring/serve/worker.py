"""Worker: one thread that writes for many requests, so that the event loop stays free to answer.

Jobs join between two steps; their pieces reach the event loop through asyncio queues, and between two steps
the thread looks which jobs are still wanted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from mainspring.errors import MainspringError, RunFault
from mainspring.infer.batching import BatchStats, News, Request
from mainspring.infer.completion import Piece
from mainspring.infer.options import GenerateOptions
from mainspring.infer.prepared import Prepared

logger = logging.getLogger(__name__)

IDLE = 1.0
"""Seconds without a job after which memory is given back."""


class Writes(Protocol):
    """What a worker asks of whatever writes text; `infer.batching.Batcher` does.

    All in the worker's thread, but for `prepare`.
    """

    @property
    def width(self) -> int:
        """Completions that are written at once."""
        ...

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        ...

    def prepare(self, prompts: Sequence[str | Sequence[int]], options: GenerateOptions) -> Prepared:
        """Check and tokenise; UsageError where the request cannot be met. May be called from any thread."""
        ...

    def add(self, prepared: Prepared, deadline: float | None = None) -> Request:
        """Put a request in line; it has to be done by `deadline` (time.monotonic), where one is given."""
        ...

    def step(self) -> list[News]:
        """Do a step; what it brought, in order."""
        ...

    def end(self, fault: Exception) -> list[News]:
        """Give up everything there is; `fault` is why."""
        ...

    def rest(self) -> None:
        """Give memory back while there is nothing to do."""
        ...

    def stats(self) -> BatchStats:
        """Present state and counts."""
        ...


class Full(Exception):
    """The queue has no room."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which there may be room."""


class Job:
    """A request under way, as the event loop sees it."""

    def __init__(self, prepared: Prepared, deadline: float | None, loop: asyncio.AbstractEventLoop) -> None:
        self.prepared, self.deadline, self._loop = prepared, deadline, loop
        self._news: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._cancelled = threading.Event()
        self.complete = False
        """Whether all pieces have been read."""

    def cancel(self) -> None:
        """End the request before its next token. Harmless when it has ended."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    async def pieces(
        self, gone: Callable[[], Awaitable[bool]], *, every: float = 0.2
    ) -> AsyncGenerator[Piece]:
        """The pieces as they come. Leaving the iteration early cancels the job.

        Args:
            gone: whether the client has left; asked every `every` seconds, and the iteration ends if so.

        Raises:
            RunFault: the server stopped before the end.
            DeadlineError: the deadline passed before the end.
        """
        loop = asyncio.get_running_loop()
        look = loop.time() + every
        try:
            while True:
                if loop.time() >= look:
                    if await gone():
                        return
                    look = loop.time() + every
                try:
                    async with asyncio.timeout_at(look):
                        news = await self._news.get()
                except TimeoutError:
                    continue
                if news is None:
                    self.complete = True
                    return
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            self.cancel()

    def tell(self, news: Piece | Exception | None) -> None:
        """Hand on a piece, a failure, or (None) the end. May be called from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:  # the loop has closed: nobody listens any more
            self.cancel()


class Worker:
    """Runs jobs side by side in a thread of its own."""

    def __init__(
        self,
        name: str,
        writer: Writes,
        *,
        capacity: int,
        watch: Callable[[BatchStats], object] | None = None,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        """Start.

        Args:
            name: of the model.
            writer: what writes.
            capacity: jobs that may wait beside those that are written.
            watch: told the state after each step.
            turn: held while a step runs, where others use the model too.
        """
        self._writer, self._capacity, self._watch = writer, capacity, watch
        self._turn = turn or nullcontext()
        self._arrived: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._unfinished: dict[Job, None] = {}
        self._requests: dict[Request, Job] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._ends: deque[float] = deque(maxlen=32)
        self._thread = threading.Thread(target=self._run, name=f"write-{name}", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """Jobs that run or wait."""
        with self._lock:
            return len(self._unfinished)

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return not self._closed and self._thread.is_alive()

    def prepare(self, prompts: Sequence[str | Sequence[int]], options: GenerateOptions) -> Prepared:
        """Check and tokenise. May be called from any thread.

        Raises:
            UsageError: the request cannot be met.
        """
        return self._writer.prepare(prompts, options)

    def submit(self, prepared: Prepared, deadline: float | None = None) -> Job:
        """Put a request in line. Call it in the event loop that will read the pieces.

        Raises:
            Full: `capacity` jobs wait already.
            RunFault: the worker is closed.
        """
        job = Job(prepared, deadline, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                raise RunFault("the server is stopping")
            if len(self._unfinished) >= self._capacity + self._writer.width:
                raise Full(f"{self._capacity} requests wait already", self._retry_after())
            self._unfinished[job] = None
        self._arrived.put(job)
        return job

    def stop(self) -> None:
        """Take no more jobs; those there are go on."""
        with self._lock:
            self._closed = True

    def end(self) -> None:
        """Take no more jobs and end those there are; who waits for one is told."""
        self.stop()
        with self._lock:
            unfinished = list(self._unfinished)
        for job in unfinished:
            job.cancel()
            job.tell(RunFault("the server is stopping"))
        self._arrived.put(None)

    def close(self, timeout: float = 10.0) -> None:
        """`end`, and wait `timeout` seconds at most for the step under way."""
        self.end()
        self._thread.join(timeout)

    def _retry_after(self) -> int:
        """Seconds in which as many jobs as wait have ended lately."""
        if len(self._ends) < 2:
            return 1
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(60, max(1, math.ceil(each * self._capacity)))

    def _run(self) -> None:
        while self._take():
            with self._turn:
                for news in self._step():
                    self._hand_on(news)
                if self._watch is not None:
                    self._watch(self._writer.stats())

    def _take(self) -> bool:
        """Add the jobs that have arrived, let go of those that nobody wants; False at the end."""
        while True:
            try:
                if self._writer.busy:
                    job = self._arrived.get_nowait()
                else:
                    job = self._arrived.get(timeout=IDLE)
            except queue.Empty:
                if self._writer.busy:
                    break
                self._writer.rest()
                continue
            if job is None:
                self._writer.end(RunFault("the server is stopping"))
                return False
            if not job.cancelled:
                self._requests[self._writer.add(job.prepared, job.deadline)] = job
            else:
                self._forget(job)
        for request, job in list(self._requests.items()):
            if job.cancelled:
                request.cancelled = True
                self._finish(request)
        return True

    def _step(self) -> list[News]:
        try:
            return self._writer.step()
        except Exception as error:
            # A step works on all requests at once: none of them can be trusted to go on.
            logger.exception("a step failed")
            return self._writer.end(error)

    def _hand_on(self, news: News) -> None:
        job = self._requests.get(news.request)
        if job is None:
            return
        if news.piece is not None:
            job.tell(news.piece)
        if news.fault is not None:
            if not isinstance(news.fault, MainspringError):
                logger.error("a request failed", exc_info=news.fault)
            job.tell(news.fault)
        elif news.last:
            job.tell(None)
        else:
            return
        self._finish(news.request)

    def _finish(self, request: Request) -> None:
        self._ends.append(time.monotonic())
        self._forget(self._requests.pop(request))

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._unfinished.pop(job, None)
