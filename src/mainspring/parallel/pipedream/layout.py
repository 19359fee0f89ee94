"""Which rank holds which stage, and how many minibatches it works on at once.

Source: Narayanan et al. 2019, PipeDream (SOSP '19), sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from mainspring.errors import PlanError


class Place(NamedTuple):
    """Where a rank stands."""

    stage: int
    """Number of its stage, 0 the one that takes the input."""
    replica: int
    """Its number among the ranks of that stage."""


@dataclass(frozen=True)
class Layout:
    """Stages over ranks: stage s is held by `replicas[s]` ranks, and ranks are numbered stage by stage.

    Minibatch i is worked on by replica i mod r of a stage of r replicas, forward and backward (round-robin).

    >>> layout = Layout((3, 1))
    >>> layout.place(3), layout.rank(0, minibatch=7), layout.noam
    (Place(stage=1, replica=0), 1, 2)
    """

    replicas: tuple[int, ...]
    """Ranks of each stage."""

    def __post_init__(self) -> None:
        if not self.replicas or min(self.replicas) < 1:
            raise PlanError(f"every stage needs at least one rank; replicas = {self.replicas}")

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.replicas)

    @property
    def workers(self) -> int:
        """Number of ranks."""
        return sum(self.replicas)

    @property
    def noam(self) -> int:
        """Minibatches that each replica of the input stage admits to keep all ranks at work (section 3.2:
        NUM_OPT_ACTIVE_MINIBATCHES = ceil(workers / replicas of the input stage))."""
        return -(-self.workers // self.replicas[0])

    def warmup(self, stage: int) -> int:
        """Forwards of a replica before its first backward: what the ranks after it keep in flight."""
        return (self.workers - 1 - self.first_rank(stage)) // self.replicas[stage]

    def first_rank(self, stage: int) -> int:
        """Rank of a stage's replica 0."""
        return [0, *accumulate(self.replicas)][stage]

    def ranks(self, stage: int) -> range:
        """Ranks of a stage."""
        first = self.first_rank(stage)
        return range(first, first + self.replicas[stage])

    def rank(self, stage: int, minibatch: int) -> int:
        """The rank of a stage that works on a minibatch."""
        return self.first_rank(stage) + minibatch % self.replicas[stage]

    def place(self, rank: int) -> Place:
        """Stage and replica of a rank.

        Raises:
            PlanError: there is no such rank.
        """
        for stage in range(self.stages):
            if rank in self.ranks(stage):
                return Place(stage, rank - self.first_rank(stage))
        raise PlanError(f"rank {rank} has no stage: {self.replicas} replicas are {self.workers} ranks")

    def describe(self, rank: int) -> str:
        """A rank in words, for errors."""
        stage, replica = self.place(rank)
        many = self.replicas[stage]
        part = f", replica {replica} of {many}" if many > 1 else ""
        return f"stage {stage} of {self.stages} (rank {rank}{part})"


def whole_rounds(replicas: Sequence[int], count: int) -> bool:
    """Whether every replica of every stage takes the same number of `count` minibatches."""
    return all(count % many == 0 for many in replicas)
