"""Plan: how a run is spread over ranks, as a value that can be compared, stored and costed before it is
executed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mainspring.config import Section


class Plan(Section):
    """Spread of a run over `world` ranks.

    ZeRO stages follow Rajbhandari et al. 2020 (arXiv 1910.02054): 1 shards optimizer states, 2 also
    gradients, 3 also parameters.
    """

    data: int = Field(1, ge=1)
    """Ranks that each take a share of every batch."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage: what the data ranks shard between them instead of replicating."""
    backend: Literal["flat", "fsdp2"] = "flat"
    """What carries out ZeRO 1 to 3: our flat shards, or PyTorch's `fully_shard`."""
    remat: bool = False
    """Keep only the inputs of each block for backward and compute the rest again."""

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.data
