"""Wait for other processes through counters in shared memory, and say who is missing."""

from __future__ import annotations

import os
import select
import time
import weakref
from collections.abc import Callable, Iterable

from mainspring.comm.ledger import differ
from mainspring.comm.memory import SharedMemory
from mainspring.errors import CollectiveError

# Words of the header, each on a cache line of its own.
PUBLISHED, DONE, ENTERED, LEFT, STAMP = 0, 8, 16, 24, 32
_RECORDS, _RECORD_BYTES = 4096, 512
_SPINS, _YIELD_SECONDS, _LONGEST_SLEEP = 40, 3e-4, 1e-3


class Peers:
    """The other ranks of a group on this host: whether they live, and the last operation that each entered.

    Args:
        memory: the group's shared memory; its headers hold the counters and names.
        timeout: seconds a wait may take.
        meanwhile: called now and then during a wait.
    """

    def __init__(self, memory: SharedMemory, timeout: float, meanwhile: Callable[[], None]) -> None:
        self.memory, self.timeout, self._meanwhile = memory, timeout, meanwhile
        self.rank, self.size = memory.rank, memory.size
        self._poll = select.poll()
        self._pidfds = {os.pidfd_open(pid): r for r, pid in enumerate(memory.pids) if r != self.rank}
        for fd in self._pidfds:
            self._poll.register(fd, select.POLLIN)
        self._broken: str | None = None
        _all.add(self)

    def enter(self, what: str, *, compare: bool = False) -> None:
        """Note that this rank enters operation `what`, where the others can read it.

        Args:
            compare: wait for the others to enter their operation of this number, and see that it is the same.

        Raises:
            CollectiveError: the ranks do not do the same; a rank does not come; the group failed before.
        """
        if self._broken is not None:
            raise CollectiveError(f"{what} cannot start, the group has failed: {self._broken}")
        words = self.memory.words[self.rank]
        number = words[ENTERED] + 1
        record = what.encode()[: _RECORD_BYTES - 2]
        start = _RECORDS + (number & 1) * _RECORD_BYTES
        block = self.memory.maps[self.rank]
        block[start : start + 2 + len(record)] = len(record).to_bytes(2, "little") + record
        words[STAMP] = time.monotonic_ns()
        words[ENTERED] = number
        if compare:
            # Nobody enters number + 2, over the record of this one, before all have read this one.
            self.wait(ENTERED, number, range(self.size), f"number {number}, {what},")
            names = [self.entered(rank, number) for rank in range(self.size)]
            if len(set(names)) > 1:
                self.fail(differ([f"number {number}: {name}" for name in names]))

    def entered(self, rank: int, number: int | None = None) -> str:
        """What `rank` announced as its operation `number` (one of its last two; None: the last)."""
        number = self.memory.words[rank][ENTERED] if number is None else number
        if number == 0:
            return "nothing yet"
        start = _RECORDS + (number & 1) * _RECORD_BYTES
        block = self.memory.maps[rank]
        length = int.from_bytes(block[start : start + 2], "little")
        return block[start + 2 : start + 2 + length].decode(errors="replace")

    def wait(
        self, word: int, target: int, ranks: Iterable[int], what: str, memory: SharedMemory | None = None
    ) -> None:
        """Wait until the counter `word` of each of `ranks` is at least `target`.

        Brief spinning, then giving the core away, then short sleeps: a rank that waits leaves its core to
        those that compute.

        Args:
            what: the operation, for the message.
            memory: where the counters are, if not in the group's own memory.

        Raises:
            CollectiveError: a rank that is waited for has died or left, or the time-out is over.
        """
        words = (memory or self.memory).words
        for rank in ranks:
            counters = words[rank]
            if counters[word] < target:
                self._wait_one(lambda counters=counters: counters[word] >= target, rank, what)  # type: ignore[misc]

    def _wait_one(self, there: Callable[[], bool], rank: int, what: str) -> None:
        if self._broken is not None:
            raise CollectiveError(f"{what} cannot finish, the group has failed: {self._broken}")
        for _ in range(_SPINS):
            if there():
                return
        started = looked = time.monotonic()
        while time.monotonic() - started < _YIELD_SECONDS:
            os.sched_yield()
            if there():
                return
        nap = 2e-5
        while not there():
            self._meanwhile()
            time.sleep(nap)
            nap = min(nap * 1.5, _LONGEST_SLEEP)
            now = time.monotonic()
            if now - looked < 0.02:
                continue
            looked = now
            # Who is gone may have finished its part first: look at the counter once more.
            trouble = self._trouble(rank)
            if trouble is not None and not there():
                self.fail(f"{what} cannot finish: rank {rank} {trouble}; {self._last(rank)}")
            if now - started > self.timeout and not there():
                self.fail(
                    f"{what} was not finished within {self.timeout:g} s: rank {rank} is late; "
                    f"{self._last(rank)}"
                )

    def fail(self, message: str) -> None:
        """Raise, and have every later operation of the group, here and on the others, fail too."""
        self._broken = message
        self.memory.words[self.rank][LEFT] = 2
        raise CollectiveError(message)

    def _trouble(self, rank: int) -> str | None:
        if any(self._pidfds[fd] == rank for fd, _ in self._poll.poll(0)):
            return f"(process {self.memory.pids[rank]}) has died"
        left = self.memory.words[rank][LEFT]
        return None if left == 0 else "has left the group" if left == 1 else "has failed"

    def _last(self, rank: int) -> str:
        """The last operation of `rank` in this group, and what it entered since in others that this rank
        belongs to."""
        words = self.memory.words[rank]
        mine = self.memory.words[self.rank][ENTERED]
        note = "it has entered no operation of this group yet"
        if words[ENTERED]:
            note = (
                f"its last operation was number {words[ENTERED]}, {self.entered(rank)}, "
                f"entered {_age(words[STAMP]):.1f} s ago (this rank is in number {mine})"
            )
        pid, latest, newer = self.memory.pids[rank], words[STAMP], ""
        for other in list(_all):
            memory = other.memory
            if other is not self and pid in memory.pids:
                there = memory.pids.index(pid)
                stamp = memory.words[there][STAMP]
                if stamp > latest:
                    newer = f"; since, in another group, {other.entered(there)}, {_age(stamp):.1f} s ago"
                    latest = stamp
        return note + newer

    def close(self) -> None:
        """Tell the others that this rank has left."""
        words = self.memory.words[self.rank]
        words[LEFT] = words[LEFT] or 1
        for fd in self._pidfds:
            os.close(fd)
        self._pidfds = {}


_all: weakref.WeakSet[Peers] = weakref.WeakSet()


def _age(stamp: int) -> float:
    """Seconds since a time stamp; the clock is that of the host."""
    return (time.monotonic_ns() - stamp) / 1e9
