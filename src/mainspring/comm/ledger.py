"""What each rank does, noted in the store of its process group: for groups that share no memory."""

from __future__ import annotations

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from mainspring.errors import CollectiveError

_WIDTH = 512


class Ledger:
    """The last operation of every rank of a group, by name.

    Noting one is a message to the store that waits for no answer.
    """

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int) -> None:
        self._rank, self._size, self._number = rank, size, 0
        self._store = group.get_group_store()

    def enter(self, what: str) -> None:
        """Note that this rank enters `what`."""
        self._number += 1
        self._store.set(self._key(self._rank), f"{self._number} {time.time():.3f} {what}")

    def compare(self, group: dist.ProcessGroup | None, what: str, timeout: float) -> None:
        """Exchange names over the group.

        Raises:
            CollectiveError: the ranks do not all do `what`; or somebody did not come.
        """
        text = f"number {self._number}: {what}".encode()[:_WIDTH]
        mine = torch.zeros(_WIDTH, dtype=torch.uint8)
        mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        rows = [torch.empty_like(mine) for _ in range(self._size)]
        try:
            dist.all_gather(rows, mine, group=group, async_op=True).wait(timedelta(seconds=timeout))
        except RuntimeError as error:
            raise CollectiveError(f"{what} failed: {error}; {self.report()}") from error
        names = [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in rows]
        if len(set(names)) > 1:
            raise CollectiveError(differ(names))

    def report(self) -> str:
        """Who is behind this rank, and what it did last."""
        try:
            notes = [self._read(rank) for rank in range(self._size)]
        except RuntimeError as error:
            return f"the store that knows the other ranks cannot be read ({error})"
        late = [rank for rank, note in enumerate(notes) if note[0] < self._number]
        shown = late or [rank for rank in range(self._size) if rank != self._rank]
        return "; ".join(
            f"rank {rank}{' is late: it' if rank in late else ''} {notes[rank][1]}" for rank in shown
        )

    def _read(self, rank: int) -> tuple[int, str]:
        key = self._key(rank)
        if not self._store.check([key]):
            return 0, "has entered no operation of this group yet"
        number, moment, what = self._store.get(key).decode().split(" ", 2)
        age = max(0.0, time.time() - float(moment))
        return int(number), (
            f"last entered number {number}, {what}, {age:.1f} s ago (this rank is in number {self._number})"
        )

    def _key(self, rank: int) -> str:
        return f"mainspring/last/{rank}"


def differ(names: list[str]) -> str:
    """The message for ranks that do not do the same; `names` in rank order."""
    return "the ranks do not do the same: " + "; ".join(f"rank {r} is in {n}" for r, n in enumerate(names))
