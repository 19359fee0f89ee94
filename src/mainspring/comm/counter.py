"""Count what collectives move, calls and bytes by name, so that a formula can be tested against a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Op = Literal["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "send"]

_PASSES: dict[Op, int] = {
    "all_reduce": 2,
    "reduce_scatter": 1,
    "all_gather": 1,
    "all_to_all": 1,
    "broadcast": 1,
    "send": 1,
}


@dataclass(frozen=True)
class Traffic:
    """What one named operation moved."""

    op: Op
    """Kind of collective, or a message from one rank to another."""
    calls: int
    """How often it ran."""
    payload: int
    """Bytes of the whole (unsharded) tensors, summed over calls; of an all-to-all what this rank gives
    away, with what it keeps."""
    wire: float
    """Bytes a rank must send with the best algorithm: payload (N - 1) / N, twice that for an all-reduce; of
    an all-to-all what goes to others."""

    @property
    def volume(self) -> int:
        """Bytes in the convention of the ZeRO paper (arXiv 1910.02054, section 7): an all-reduce is a
        reduce-scatter and an all-gather, so it counts its payload twice."""
        return self.payload * _PASSES[self.op]

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.op, self.calls + other.calls, self.payload + other.payload, self.wire + other.wire
        )


@dataclass
class Counter:
    """A tally of collectives by name. Pass it to the operations of `mainspring.comm`; it costs a dict entry a
    call."""

    records: dict[tuple[str, Op], Traffic] = field(default_factory=dict)
    """(name, operation) -> what it moved."""

    def add(self, name: str, op: Op, payload: int, group_size: int, wire: float | None = None) -> None:
        """Note one call that worked on `payload` bytes (of the whole tensor) among `group_size` ranks.

        `wire` is what this rank sends, where that is no even share.
        """
        wire = payload * _PASSES[op] * (group_size - 1) / group_size if wire is None else wire
        record = Traffic(op, 1, payload, wire)
        before = self.records.get((name, op))
        self.records[name, op] = record if before is None else before + record

    def calls(self, name: str | None = None) -> int:
        """Calls of `name` (None: of all)."""
        return sum(t.calls for (known, _), t in self.records.items() if name in (None, known))

    def volume(self, name: str | None = None) -> int:
        """Bytes of `name` (None: of all) in the ZeRO paper's convention."""
        return sum(t.volume for (known, _), t in self.records.items() if name in (None, known))

    def wire(self, name: str | None = None) -> float:
        """Bytes of `name` (None: of all) that a rank must send."""
        return sum(t.wire for (known, _), t in self.records.items() if name in (None, known))

    @contextmanager
    def measure(self) -> Iterator[Counter]:
        """Count a stretch of work: the counter that is yielded holds, after the block, what happened inside
        it.

        >>> counter = Counter()
        >>> with counter.measure() as seen:
        ...     counter.add("gradients", "all_reduce", 100, 2)
        >>> seen.volume("gradients")
        200
        """
        before = dict(self.records)
        seen = Counter()
        try:
            yield seen
        finally:
            for key, now in self.records.items():
                was = before.get(key, Traffic(now.op, 0, 0, 0.0))
                if now.calls > was.calls:
                    seen.records[key] = Traffic(
                        now.op, now.calls - was.calls, now.payload - was.payload, now.wire - was.wire
                    )
