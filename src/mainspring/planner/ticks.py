"""Simulate a schedule on paper: when each rank does what, how old its weights are, how long it waits.

A schedule is a list of `Op` for each rank, whatever made it: PipeDream's (`parallel.pipedream.schedule`), or
one that interleaves stages or splits the backward pass. Nothing is computed or sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from mainspring.errors import PlanError
from mainspring.parallel.pipedream.schedule import Op

Orders = Sequence[Sequence[Op]]
"""What each rank does, in its order."""


@dataclass(frozen=True)
class Event:
    """An op in time."""

    rank: int
    op: Op
    start: float
    """Seconds (or ticks) from the beginning."""
    end: float


@dataclass(frozen=True)
class Timeline:
    """A schedule in time."""

    events: tuple[Event, ...]
    """In order of their start."""
    ranks: int

    @cached_property
    def span(self) -> float:
        """Time from the beginning to the end of the last op."""
        return max((event.end for event in self.events), default=0.0)

    @property
    def bubble(self) -> float:
        """Time that ranks wait beside the time that they work, averaged over ranks. For a synchronous
        pipeline of p stages and m micro-batches of equal cost: (p - 1) / m."""
        busy = sum(event.end - event.start for event in self.events)
        return self.ranks * self.span / busy - 1 if busy else 0.0

    @property
    def idle(self) -> float:
        """Part of all ranks' time in which they wait: (p - 1) / (m + p - 1) for that pipeline."""
        return self.bubble / (1 + self.bubble)

    def seconds_per_minibatch(self) -> float:
        """Seconds between finished minibatches in the middle half of the run, where it is steady."""
        ends = sorted(e.end for e in self.events if e.op.kind == "B" and e.op.stage == 0)
        low, high = len(ends) // 4, (3 * len(ends)) // 4
        if high == low:
            return self.span / max(1, len(ends))
        return (ends[high] - ends[low]) / (high - low)


def ticks(op: Op) -> float:
    """One tick a forward, two a backward (one each where it is split), none an update."""
    return {"F": 1.0, "B": 2.0, "W": 1.0, "U": 0.0}[op.kind]


def simulate(
    orders: Orders, seconds: Callable[[Op], float] = ticks, transfer: Callable[[Op], float] = lambda op: 0.0
) -> Timeline:
    """Time a schedule in which each rank does one op at a time and sends while it goes on.

    Args:
        orders: of all ranks.
        seconds: how long an op takes; of an update also its all-reduce.
        transfer: how long the result of an op is under way to the next (F) or previous (B) stage, where that
            is on another rank. What a rank sends follows one after the other.

    Raises:
        PlanError: the ranks wait for each other for ever; the message says for what.
    """
    owner = {op: rank for rank, ops in enumerate(orders) for op in ops if op.kind != "U"}
    meeting: dict[Op, int] = defaultdict(int)
    for ops in orders:
        for op in ops:
            meeting[op] += op.kind == "U"
    last = max((op.stage for op in owner), default=0)
    at = [0] * len(orders)
    free, link = [0.0] * len(orders), [0.0] * len(orders)
    arrived: dict[Op, float] = {}
    came: dict[Op, list[int]] = defaultdict(list)
    events: list[Event] = []

    def run(rank: int, op: Op, start: float) -> None:
        end = start + seconds(op)
        events.append(Event(rank, op, start, end))
        free[rank] = end
        at[rank] += 1
        arrived[op] = end
        target = _next(op, last)
        if target in owner and owner[target] != rank:
            link[rank] = arrived[op] = max(end, link[rank]) + transfer(op)

    moved = True
    while moved:
        moved = False
        for rank, ops in enumerate(orders):
            while at[rank] < len(ops):
                op = ops[at[rank]]
                if op.kind == "U":
                    here = came[op]
                    if rank not in here:
                        here.append(rank)
                        moved = True
                    if len(here) < meeting[op]:
                        break
                    start = max(free[r] for r in here)
                    for r in here:
                        run(r, op, start)
                    continue
                needed = [n for n in _needs(op, last) if n in owner]
                if any(n not in arrived for n in needed):
                    break
                run(rank, op, max([free[rank], *(arrived[n] for n in needed)]))
                moved = True
    stuck = [(rank, ops[at[rank]]) for rank, ops in enumerate(orders) if at[rank] < len(ops)]
    if stuck:
        waiting = "; ".join(f"rank {rank} for what {op} needs" for rank, op in stuck[:8])
        raise PlanError(f"the schedule never ends: {waiting}")
    return Timeline(tuple(sorted(events, key=lambda e: (e.start, e.rank))), len(orders))


def staleness(ops: Sequence[Op]) -> dict[int, int]:
    """Of each minibatch of a rank: updates made there between its forward and its own update."""
    began, ages, done = {}, {}, 0
    for op in ops:
        if op.kind == "U":
            done += 1
        elif op.kind == "F":
            began[op.batch] = done
        elif op.kind == "B":
            ages[op.batch] = done - began[op.batch]
    return ages


def versions_alive(ops: Sequence[Op]) -> int:
    """Most versions of its weights that a rank keeps at once under weight stashing, the newest included."""
    held: dict[int, int] = {}
    done, most = 0, 1
    for op in ops:
        if op.kind == "U":
            done += 1
        elif op.kind == "F":
            held[op.batch] = done
        elif op.kind == "B":
            del held[op.batch]
        most = max(most, len({*held.values(), done}))
    return most


def _needs(op: Op, last: int) -> list[Op]:
    """What must have arrived before `op` can begin, besides what precedes it on its rank."""
    if op.kind == "F":
        return [Op("F", op.batch, op.stage - 1)]
    if op.kind == "W":
        return [Op("B", op.batch, op.stage)]
    return [Op("F", op.batch, op.stage), Op("B", op.batch, op.stage + 1)]


def _next(op: Op, last: int) -> Op | None:
    """Who takes the result of `op`."""
    if op.kind == "F" and op.stage < last:
        return Op("F", op.batch, op.stage + 1)
    if op.kind == "B" and op.stage > 0:
        return Op("B", op.batch, op.stage - 1)
    return None
