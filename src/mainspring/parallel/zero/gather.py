"""Joining the shards of a unit before it computes.

Where ranks share memory, stage 3 reads the parts of the others in it (`published`) and needs no order. Else
collectives of a group match by their order alone. Ranks that take different paths through a model would ask
for units in different orders, so the order is fixed beforehand: in a forward the root and then the blocks as
the model lists them, in a backward the blocks from the last to the first. A rank that wants a unit first
takes part in all that come before it, whether it needs them or not, and at the end of a forward or backward
in those that are left. Units that are wanted again out of turn (a block that runs twice) are gathered once
more; there all ranks must do alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Literal

from torch import Tensor

from mainspring import comm
from mainspring.comm import Counter, Pending
from mainspring.parallel.zero.placement import Placement, Shard
from mainspring.parallel.zero.published import Published
from mainspring.parallel.zero.unit import Unit

Phase = Literal["forward", "backward"]


class Gatherer:
    """Fills the rows of units from the shards of all ranks.

    Args:
        units: all of them.
        placement: where masters are.
        counter: told the traffic, under "parameters".
        again: whether units are gathered more than once between two steps (stage 3).
    """

    def __init__(self, units: Iterable[Unit], placement: Placement, counter: Counter, *, again: bool) -> None:
        self._rows = [row for unit in units for row in unit.rows]
        self._talks = any(row.sharers.world > 1 for row in self._rows)
        """Whether other ranks are needed."""
        self.placement, self.counter = placement, counter
        self._again = again
        self._published: Published | None = None
        self._asked = not (again and self._talks)
        """Whether there was an attempt to share."""
        self._due: deque[Unit] = deque()
        """Units that all ranks are going to gather in this round, in this order."""
        self._under_way: dict[Unit, list[Pending]] = {}
        self._phase: Phase = "forward"

    def begin(self, units: Iterable[Unit], phase: Phase) -> None:
        """A forward or backward begins, in which these units are gathered in this order."""
        if not self._asked:
            self._published, self._asked = Published.of(self._rows, self.placement), True
        if self._published is None:
            self.end(lambda unit: None)
            self._due = deque(units)
        else:
            if phase == "forward":
                self._published.close()
            self._published.open()
        self._phase = phase

    def need(self, unit: Unit) -> list[Unit]:
        """Have `unit` ready. Returns units that were made ready on the way, which this rank did not want."""
        others = []
        while unit in self._due:
            head = self._due.popleft()
            if self._talks:
                self._start(head)
                self._finish(head)
                if head is not unit:
                    others.append(head)
        if not unit.ready:
            self._start(unit)
            self._finish(unit)
        return others

    def prefetch(self) -> None:
        """Start on the next unit that is due, and tell the placement of the one after it."""
        ahead = list(islice(self._due, 2))
        if ahead and self._talks:
            self._start(ahead.pop(0))
        for unit in ahead:
            for row in unit.rows:
                self.placement.prefetch(row.shard)

    def settle(self) -> None:
        """Parameters are going to be changed: wait for ranks that still read them."""
        if self._published is not None:
            self._published.settle()

    def end(self, discard: Callable[[Unit], None], *, last: bool = True) -> None:
        """The forward or backward is over: take part in what is left, and `discard` it.

        Args:
            last: no backward will follow that wants these values.
        """
        if self._published is not None and last:
            self._published.close()
            if self._phase == "forward":  # a backward ends with reductions, which all ranks wait for
                self._published.settle()
        while self._due and self._talks:
            head = self._due.popleft()
            wanted = head.ready
            self._start(head)
            self._finish(head)
            if not wanted:
                discard(head)
        self._due.clear()

    def _start(self, unit: Unit) -> None:
        if unit in self._under_way:
            return
        works: list[Pending] = []
        for row in unit.rows:
            region = row.open()
            whole = region.take()
            payload = whole.numel() * whole.element_size()
            own, sharers = row.own(whole), row.sharers
            if self._published is not None:
                self._published.read(row, whole)
                self.counter.add("parameters", "all_gather", payload, sharers.world)
                continue
            self._fill(row.shard, own)
            if sharers.world > 1:
                where = unit.name or "the root"
                name = f"gather {where} {self._phase}"
                works += comm.all_gather(whole, own, name=name, group=sharers.gathers)
                self.counter.add("parameters", "all_gather", payload, sharers.world)
        self._under_way[unit] = works

    def _fill(self, shard: Shard, own: Tensor) -> None:
        if not shard.numel:
            return
        current = shard.copied_version in (-1, shard.flat._version)
        if shard.copied and shard.copy is not None and current:
            own.copy_(shard.copy)
            if not self._again and shard.copied_version >= 0:
                shard.copy, shard.copied = None, False  # the whole stays gathered until the next step
        else:
            self.placement.before_gather(shard, own)

    def _finish(self, unit: Unit) -> None:
        for work in self._under_way.pop(unit):
            work.wait()
        unit.ready = True


def free_rows(unit: Unit) -> None:
    """Give the memory of a unit's gathered rows back."""
    for row in unit.rows:
        if row.region is not None:
            row.region.free()
    unit.ready = False
