"""Cut a chain of nodes into replicated stages over hierarchical links: PipeDream's dynamic programme.

Source: Narayanan et al. 2019, PipeDream (SOSP '19), section 3.1, and its published partitioner. The best
pipeline of nodes i..j on m units of a level is a single stage replicated m times, or a best pipeline that
ends before a last stage:

    A(i..j, m) = min( T(i..j, m), min over k, m' of max( A(i..k, m - m'), 2 a_k / (B m'), T(k+1..j, m') ) )

with a_k the bytes of activations after node k (and of gradients back), B the bandwidth of the level. A unit
of the lowest level is a worker; a unit of a level above is all units of the level below, and what a stage
computes there is the best pipeline inside it. A stage that is replicated m times takes

    T = max( t, 2 (m - 1) w / B ) / m               overlap: the paper, all-reduce behind computing
    T = ( t + 4 (m - 1) w / (B m) ) / m             else: the published program, one after the other

for each minibatch, with t its seconds on one unit and w the bytes of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate

from mainspring.errors import PlanError
from mainspring.parallel.pipedream.layout import Layout
from mainspring.planner.pipedream.chain import Chain


@dataclass(frozen=True)
class Level:
    """Units that are joined by links of one speed."""

    units: int
    """How many: workers of a server; servers of a rack; ..."""
    bandwidth: float
    """Bytes/s between two of them."""


@dataclass(frozen=True)
class Part:
    """A stage of a cut: nodes `first` to `last`, both included, on `replicas` workers."""

    first: int
    last: int
    replicas: int


@dataclass(frozen=True)
class Cut:
    """A chain in stages."""

    seconds: float
    """Time of the slowest stage or link for each minibatch: what a minibatch costs in the long run."""
    parts: tuple[Part, ...]

    @property
    def layout(self) -> Layout:
        """The stages over ranks: what a `Pipeline` takes; it knows NOAM and the warm-up of each stage."""
        return Layout(tuple(part.replicas for part in self.parts))

    def stage_of(self) -> dict[int, int]:
        """Of each node its stage."""
        return {n: s for s, part in enumerate(self.parts) for n in range(part.first, part.last + 1)}


def partition(
    chain: Chain,
    levels: Sequence[Level],
    *,
    overlap: bool = False,
    straight: bool = False,
    fewer: bool = False,
    memory: float | None = None,
) -> Cut:
    """The cut with the least time for each minibatch.

    Args:
        chain: what is cut.
        levels: from the workers upwards.
        overlap: all-reduces hide behind computing (the paper's T). `Pipeline` does them after it.
        straight: one replica a stage.
        fewer: also try fewer units of the top level, each full.
        memory: bytes of a worker; None does not ask. A stage needs its activations and weights once for every
            minibatch that is in flight there: ceil((workers from this stage on) / replicas).

    Raises:
        PlanError: nothing fits in memory, or a straight pipeline has more workers than nodes.
    """
    if not levels or any(level.units < 1 or level.bandwidth <= 0 for level in levels):
        raise PlanError("every level has at least one unit and a bandwidth above 0")
    search = _Search(chain, tuple(levels), overlap, straight, memory)
    top, last = len(levels) - 1, len(chain.nodes) - 1
    many = range(1, levels[top].units + 1) if fewer else [levels[top].units]
    found = [search.best(top, 0, last, m, Fraction(0)) for m in many]
    fits = [cut for cut in found if cut is not None]
    if not fits:
        workers = math.prod(level.units for level in levels)
        raise PlanError(
            f"no cut of {last + 1} nodes over {workers} workers"
            + (" without replication" if straight else "")
            + (f" fits in {memory:,.0f} bytes of each" if memory is not None else "")
            + ("; use fewer workers or allow replication" if straight else "; use more workers or memory")
        )
    return min(fits, key=_order)


def _order(cut: Cut) -> tuple[float, int, int]:
    return cut.seconds, len(cut.parts), cut.layout.workers


@dataclass
class _Search:
    chain: Chain
    levels: tuple[Level, ...]
    overlap: bool
    straight: bool
    memory: float | None
    known: dict[tuple[int, int, int, int, Fraction, bool], Cut | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = self.chain.nodes
        self.time = [0.0, *accumulate(node.seconds for node in nodes)]
        self.weights = [0, *accumulate(node.parameter_bytes for node in nodes)]
        self.size = [0, *accumulate(node.parameter_bytes + node.activation_bytes for node in nodes)]
        self.workers = [1, *accumulate((level.units for level in self.levels), lambda a, b: a * b)]
        """Workers of a unit of each level."""

    def best(
        self, level: int, first: int, last: int, units: int, after: Fraction, inside: bool = False
    ) -> Cut | None:
        """The best pipeline of nodes on units of a level.

        Args:
            level: whose units.
            first: first node.
            last: last node.
            units: how many of them.
            after: workers that hold later nodes, shared out over the replicas of the stage above.
            inside: the nodes before `first` are on other units of the same level, which send to these.
        """
        key = (level, first, last, units, after if self.memory is not None else Fraction(0), inside)
        if key not in self.known:
            self.known[key] = self._best(*key)
        return self.known[key]

    def _best(
        self, level: int, first: int, last: int, units: int, after: Fraction, inside: bool
    ) -> Cut | None:
        best: Cut | None = None
        bandwidth = self.levels[level].bandwidth
        for replicas in range(1, (1 if self.straight else units) + 1):
            entering = 0.0
            if inside:
                entering = 2 * self.chain.nodes[first - 1].activation_bytes / (bandwidth * replicas)
            if best is not None and entering > best.seconds:
                continue
            rest = units - replicas
            behind = after + rest * self.workers[level]
            for end in [last] if rest == 0 else range(first, last):
                stage = self._stage(level, first, end, replicas, behind)
                if stage is None or (best is not None and stage.seconds > best.seconds):
                    continue
                cut = Cut(max(stage.seconds, entering), stage.parts)
                if rest:
                    tail = self.best(level, end + 1, last, rest, after, True)
                    if tail is None:
                        continue
                    cut = Cut(max(cut.seconds, tail.seconds), cut.parts + tail.parts)
                if best is None or _order(cut) < _order(best):
                    best = cut
        return best

    def _stage(self, level: int, first: int, last: int, replicas: int, after: Fraction) -> Cut | None:
        """Nodes as one stage of a level, replicated; what is inside it may be a pipeline again."""
        if level:
            inner = self.best(level - 1, first, last, self.levels[level - 1].units, after / replicas)
            if inner is None:
                return None
            parts = tuple(Part(p.first, p.last, p.replicas * replicas) for p in inner.parts)
            return Cut(self._replicated(level, first, last, replicas, inner.seconds), parts)
        if self.memory is not None:
            in_flight = math.ceil((after + replicas) / replicas)
            if in_flight * (self.size[last + 1] - self.size[first]) > self.memory:
                return None
        seconds = self.time[last + 1] - self.time[first]
        return Cut(self._replicated(0, first, last, replicas, seconds), (Part(first, last, replicas),))

    def _replicated(self, level: int, first: int, last: int, m: int, seconds: float) -> float:
        weights, bandwidth = self.weights[last + 1] - self.weights[first], self.levels[level].bandwidth
        if self.overlap:
            return max(seconds, 2 * (m - 1) * weights / bandwidth) / m
        return (seconds + 4 * (m - 1) * weights / (bandwidth * m)) / m
