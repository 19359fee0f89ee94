"""A queue of collectives that move in chunks through a bounded arena of shared memory.

Every rank owns `SLOTS` slots of `SLOT_BYTES`. All ranks cut the same sequence of collectives into the same
numbered chunks. A rank publishes chunk s (copies its data for the others into a slot of its own and then
raises its counter) and consumes it once all sources have published it. A slot is free again when every rank
has consumed what it held; the lowest free slot is taken, so that memory that is not needed is never touched
and what is needed stays in the cache.

No order of waits can deadlock. Within one group: take the rank that has consumed least, up to chunk s. Every
other rank has consumed at least that, so all slots that hold chunks before s are free, and nobody lacks what
publishing s needs. Between groups: whoever waits in one group moves on the others meanwhile.
"""

from __future__ import annotations

import heapq
import threading
import weakref
from collections import deque
from typing import Protocol

import torch
from torch import Tensor

from mainspring.comm.memory import SharedMemory
from mainspring.comm.peers import DONE, PUBLISHED, Peers

SLOTS = 8
SLOT_BYTES = 1 << 20
ARENA_BYTES = SLOTS * SLOT_BYTES
"""Most memory that a rank's arena takes (8 MiB: two ranks' fit in a usual last-level cache); only slots in
use are touched."""
_TABLE = 64
_AHEAD = 1
"""Chunks published before the one that is consumed while a rank waits: few, so that they stay in cache."""


class Slots(Protocol):
    """The slot that each rank published for one chunk."""

    def of(self, rank: int, dtype: torch.dtype) -> Tensor:
        """The slot of `rank` as elements of `dtype`."""


class Operation(Protocol):
    """One collective as the stream sees it; chunks are numbered from 0."""

    chunks: int
    sources: list[int]
    """Other ranks whose data each chunk needs."""
    signature: int
    """A number that is the same on all ranks if they do the same thing."""

    def after(self, chunk: int) -> int:
        """How many chunks of this operation must have been consumed before `chunk` may be published."""

    def publish(self, chunk: int, slots: Slots) -> bool:
        """Copy into this rank's slot; False where it has nothing to say."""

    def consume(self, chunk: int, slots: Slots) -> None:
        """Use what all sources published."""


class Ticket:
    """A collective in the stream."""

    def __init__(self, stream: Stream, operation: Operation, first: int, what: str) -> None:
        self.operation, self.first, self.what = operation, first, what
        self.end = first + operation.chunks
        self._stream = stream

    def wait(self) -> None:
        """Finish it, and whatever was started before it."""
        self._stream.finish(self)

    def is_completed(self) -> bool:
        """Whether it is finished; takes the steps that need no waiting."""
        self._stream.progress()
        return self._stream.consumed >= self.end


_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


def progress_all() -> None:
    """Move on the collectives of this thread, in all groups, as far as nobody must be waited for."""
    for stream in list(_streams):
        stream.progress()


class Stream:
    """The collectives of one group on one rank."""

    def __init__(self, memory: SharedMemory, peers: Peers) -> None:
        self.rank, self.size = memory.rank, memory.size
        self._words, self._peers = memory.words, peers
        self._mine = memory.words[memory.rank]
        self._data = [memory.data(rank) for rank in range(memory.size)]
        self._views: dict[torch.dtype, list[tuple[Tensor, ...]]] = {}
        self._queue: deque[Ticket] = deque()
        """Started and not yet consumed to the end."""
        self._unpublished: deque[Ticket] = deque()
        self._next = self._published = 0
        self.consumed = 0
        """Chunks that this rank is done with."""
        self._busy, self._thread = False, 0
        self._free = list(range(SLOTS))
        self._held: deque[tuple[int, int]] = deque()
        """(chunk, slot) of this rank that some rank may still read, oldest first."""
        self._slot = 0
        _streams.add(self)

    def start(self, operation: Operation, what: str) -> Ticket:
        """Put a collective in the queue and publish as much of it as there is room for."""
        ticket = Ticket(self, operation, self._next, what)
        self._next = ticket.end
        self._thread = threading.get_ident()
        if operation.chunks:
            self._queue.append(ticket)
            self._unpublished.append(ticket)
            self._publish(self._next)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Work through the queue up to the end of `ticket`."""
        while self.consumed < ticket.end:
            self._step()

    def progress(self) -> None:
        """Work through the queue as far as nobody must be waited for. Does nothing from within a wait of
        this stream, or in another thread than its own."""
        if self._busy or self._thread != threading.get_ident():
            return
        while self._queue:
            target = self.consumed + 1
            self._publish(target + _AHEAD)
            sources = self._queue[0].operation.sources
            if self._published < target or any(self._words[r][PUBLISHED] < target for r in sources):
                return
            self._step()

    def of(self, rank: int, dtype: torch.dtype) -> Tensor:
        """The slot of `rank` for the chunk at hand (for operations)."""
        if dtype not in self._views:
            width = SLOT_BYTES // dtype.itemsize
            self._views[dtype] = [tuple(d.view(dtype).view(SLOTS, width)) for d in self._data]
        if rank == self.rank:
            return self._views[dtype][rank][self._slot]
        entry = _TABLE + 2 * (self.consumed % SLOTS)
        return self._views[dtype][rank][self._words[rank][entry]]

    def _publish(self, limit: int) -> None:
        """Publish in order, below chunk `limit`, while there is room."""
        limit = min(limit, self._next)
        while self._published < limit:
            chunk, ticket = self._published, self._unpublished[0]
            operation = ticket.operation
            if self.consumed < ticket.first + operation.after(chunk - ticket.first):
                return
            floor = self._reclaim()
            if not self._free or chunk >= floor + SLOTS:
                return
            entry = _TABLE + 2 * (chunk % SLOTS)
            self._slot = self._free[0]
            if operation.publish(chunk - ticket.first, self):
                heapq.heappop(self._free)
                self._held.append((chunk, self._slot))
                self._mine[entry] = self._slot
            self._mine[entry + 1] = operation.signature
            self._published = chunk + 1
            self._mine[PUBLISHED] = chunk + 1
            if chunk + 1 == ticket.end:
                self._unpublished.popleft()

    def _reclaim(self) -> int:
        """Take back the slots that all ranks are done with; returns the first chunk that some rank still
        needs."""
        floor = min(words[DONE] for words in self._words)
        while self._held and self._held[0][0] < floor:
            heapq.heappush(self._free, self._held.popleft()[1])
        return floor

    def _step(self) -> None:
        """Consume the next chunk."""
        self._busy = True
        try:
            self._consume(self._queue[0], self.consumed)
        finally:
            self._busy = False

    def _consume(self, ticket: Ticket, chunk: int) -> None:
        operation, peers = ticket.operation, self._peers
        self._publish(chunk + 1 + _AHEAD)
        while self._published <= chunk:
            # The arena is full of what others have not read yet.
            oldest = chunk - SLOTS if self._free else self._held[0][0]
            others = [rank for rank in range(self.size) if rank != self.rank]
            peers.wait(DONE, oldest + 1, others, ticket.what)
            self._publish(chunk + 1)
        peers.wait(PUBLISHED, chunk + 1, operation.sources, ticket.what)
        entry = _TABLE + 2 * (chunk % SLOTS)
        for rank in operation.sources:
            if self._words[rank][entry + 1] != operation.signature:
                peers.fail(
                    f"{ticket.what}: rank {rank} does something else; it last entered {peers.entered(rank)}"
                )
        operation.consume(chunk - ticket.first, self)
        self.consumed = chunk + 1
        self._mine[DONE] = chunk + 1
        if chunk + 1 == ticket.end:
            self._queue.popleft()
