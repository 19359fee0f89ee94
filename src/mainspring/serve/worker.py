"""Worker: one thread that runs an engine's generations in turn, so that the event loop stays free to answer.

A job's pieces reach the event loop through an asyncio queue; between two pieces the thread looks whether the
job is still wanted.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from mainspring.errors import RunFault
from mainspring.infer.completion import Generation, Piece
from mainspring.infer.options import GenerateOptions

logger = logging.getLogger(__name__)


class TextGenerator(Protocol):
    """What the server asks of an engine; `infer.Engine` is one."""

    def start(self, prompts: Sequence[str | Sequence[int]], options: GenerateOptions) -> Generation:
        """Check and tokenise; UsageError where the request cannot be met. May be called from any thread."""
        ...


class Full(Exception):
    """The queue has no room."""


class Job:
    """A generation under way, as the event loop sees it."""

    def __init__(self, generation: Generation, loop: asyncio.AbstractEventLoop) -> None:
        self._generation, self._loop = generation, loop
        self._news: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._cancelled = threading.Event()
        self.complete = False
        """Whether all pieces have been read."""

    def cancel(self) -> None:
        """End the generation before its next token. Harmless when it has ended."""
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

    def run(self) -> None:
        """Generate; called in the worker's thread."""
        try:
            while not self.cancelled:
                piece = next(self._generation.pieces, None)
                if piece is None:
                    break
                self._tell(piece)
            self._tell(None)
        except Exception as error:
            logger.exception("generation failed")
            self._tell(error)
        finally:
            close = getattr(self._generation.pieces, "close", None)
            if close:
                close()

    def abandon(self) -> None:
        """End the job and tell who waits for it that the server stops."""
        self.cancel()
        self._tell(RunFault("the server is stopping"))

    def _tell(self, news: Piece | Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:  # the loop has closed: nobody listens any more
            self.cancel()


class Worker:
    """Runs jobs one after another in a thread of its own."""

    def __init__(self, name: str, *, capacity: int) -> None:
        """`capacity`: jobs that may wait beside the one that runs."""
        self._capacity = capacity
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._unfinished: set[Job] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"generate-{name}", daemon=True)
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

    def submit(self, generation: Generation) -> Job:
        """Put a generation in line. Call it in the event loop that will read the pieces.

        Raises:
            Full: `capacity` jobs wait already.
            RunFault: the worker is closed.
        """
        job = Job(generation, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                raise RunFault("the server is stopping")
            if len(self._unfinished) > self._capacity:
                raise Full(f"{self._capacity} requests wait already")
            self._unfinished.add(job)
        self._jobs.put(job)
        return job

    def end(self) -> None:
        """Take no more jobs and end those there are; who waits for one is told."""
        with self._lock:
            self._closed = True
            unfinished = list(self._unfinished)
        for job in unfinished:
            job.abandon()
        self._jobs.put(None)

    def close(self, timeout: float = 10.0) -> None:
        """`end`, and wait `timeout` seconds at most for the token under way."""
        self.end()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            with self._lock:
                self._unfinished.discard(job)
