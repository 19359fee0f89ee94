"""Gather: texts of many requests are read together, those of like length side by side.

The first text to arrive opens a window of a few milliseconds; what arrives in it is read in one go. An
encoder reads a batch at the price of its longest text, so texts are sorted by length before they are cut into
batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from mainspring.errors import RunFault

Text = TypeVar("Text")
Found = TypeVar("Found")

WINDOW = 0.003
"""Seconds that the first text waits for others."""


class Gather(Generic[Text, Found]):
    """A function of a list of texts, shared by whoever has a few."""

    def __init__(
        self,
        read: Callable[[Sequence[Text]], Sequence[Found]],
        length: Callable[[Text], int],
        *,
        most: int,
        waiting: int,
        window: float = WINDOW,
        turn: AbstractContextManager[object] | None = None,
        watch: Callable[[int], object] | None = None,
    ) -> None:
        """Begin empty.

        Args:
            read: what is found of each text, in their order; called in another thread.
            length: what to sort texts by.
            most: texts of a batch.
            waiting: texts that may wait; `full` tells.
            window: seconds that the first waits for others.
            turn: held while a batch is read, where others use the model too.
            watch: told the size of each batch.
        """
        self._read, self._length, self._most, self._waiting = read, length, most, waiting
        self._window, self._turn, self._watch = window, turn or nullcontext(), watch
        self._queue: list[tuple[Text, asyncio.Future[Found]]] = []
        self._pending = 0
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether so many texts wait that no more should be given."""
        return self._pending >= self._waiting

    async def __call__(self, texts: Sequence[Text]) -> list[Found]:
        """What is found of each text.

        Raises:
            RunFault: the server is stopping.
        """
        if self._closed:
            raise RunFault("the server is stopping")
        loop = asyncio.get_running_loop()
        asked = [(text, loop.create_future()) for text in texts]
        self._queue += asked
        self._pending += len(asked)
        if self._running is None:
            self._running = loop.create_task(self._run())
        try:
            return list(await asyncio.gather(*(future for _, future in asked)))
        finally:
            for _, future in asked:
                future.cancel()

    async def close(self) -> None:
        """Take no more; those who wait are told after the batch under way."""
        self._closed = True
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        await asyncio.sleep(self._window)
        while self._queue:
            # All that waits is read before what comes next: a long text is not overtaken for ever.
            wave, self._queue = self._queue, []
            wave.sort(key=lambda item: self._length(item[0]))
            for start in range(0, len(wave), self._most):
                await self._one(wave[start : start + self._most])
        self._running = None

    async def _one(self, batch: list[tuple[Text, asyncio.Future[Found]]]) -> None:
        self._pending -= len(batch)
        wanted = [item for item in batch if not item[1].done()]  # nobody may wait for it any more

        def read() -> Sequence[Found]:
            with self._turn:
                return self._read([text for text, _ in wanted])

        try:
            if self._closed:
                raise RunFault("the server is stopping")
            found = await asyncio.to_thread(read) if wanted else []
        except Exception as error:  # handed to those who asked
            for _, future in wanted:
                if not future.done():
                    future.set_exception(error)
            return
        if self._watch is not None:
            self._watch(len(wanted))
        for (_, future), answer in zip(wanted, found, strict=True):
            if not future.done():
                future.set_result(answer)
