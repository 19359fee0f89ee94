"""State that an offloading tier keeps elsewhere: it is opened one shard at a time, for saving and loading."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from mainspring.parallel.strategy import strategy_of
from mainspring.parallel.zero import Placement, Shard
from mainspring.parallel.zero.engine import Flat


@dataclass(frozen=True, eq=False)
class Tier:
    """Where the masters of one shard are, and the optimizer's states of its pieces."""

    placement: Placement
    shard: Shard
    optimizer: Optimizer | None

    def opened(self, *, write: bool) -> AbstractContextManager[None]:
        """Within it all is in memory; on leaving, changes are kept if `write`."""
        return self.placement.opened(self.shard, self.optimizer, write=write)


class Opened:
    """At most one tier, held open until another is wanted or `close` is called."""

    def __init__(self, *, write: bool) -> None:
        self._write = write
        self._stack = ExitStack()
        self._tier: Tier | None = None

    def enter(self, tier: Tier | None) -> None:
        """Have `tier` open, and no other."""
        if tier is not self._tier:
            self.close()
            if tier is not None:
                self._stack.enter_context(tier.opened(write=self._write))
                self._tier = tier

    def close(self) -> None:
        """Let go of the tier that is open."""
        self._tier = None
        self._stack.close()


def tiers(model: nn.Module, optimizer: Optimizer | None) -> list[Tier]:
    """The tiers of this rank's shards; [] where all is beside the computation."""
    strategy = strategy_of(model)
    if not isinstance(strategy, Flat) or strategy.placement.resident:
        return []
    return [Tier(strategy.placement, shard, optimizer) for shard in strategy.shards]
