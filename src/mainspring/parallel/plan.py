"""Plan: how a run is spread over ranks, as a value that can be compared, stored and costed before it is
executed."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

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
    offload: Literal["none", "disk"] = "none"
    """Where what is sharded is kept between uses: beside the computation, or in files of `offload_folder`
    (masters and optimizer states; at stage 3 also parameters; gradients stay in memory)."""
    offload_folder: str | None = None
    """Folder on a fast local disk for offload = "disk"; each rank makes a folder of its own in it."""
    remat: bool = False
    """Keep only the inputs of each block for backward and compute the rest again."""

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> Self:
        if self.offload != "none" and (self.zero == 0 or self.backend != "flat"):
            raise ValueError(
                f'offload = "{self.offload}" moves the shards of ZeRO 1 to 3 on flat shards and the plan has '
                f'zero = {self.zero}, backend = "{self.backend}"; set zero = 3 (legal on one rank, too)'
            )
        if (self.offload == "disk") != (self.offload_folder is not None):
            raise ValueError(
                'offload = "disk" and offload_folder go together: name a folder on a fast local disk'
            )
        return self

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.data
