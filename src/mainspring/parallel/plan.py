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
    offload: Literal["none", "host", "disk"] = "none"
    """Where what is sharded is kept between uses: beside the computation; on the host, which also makes the
    update (masters, optimizer states, gradients); or in files of `offload_folder` (masters and optimizer
    states; at stage 3 also parameters; gradients stay in memory)."""
    offload_ratio: float = Field(1.0, gt=0, le=1)
    """With offload = "host": least part of all elements that goes there, whole units at a time."""
    offload_delay: int | None = Field(None, ge=0)
    """With offload = "host": number of plain steps after which each update runs beside the next step's
    computation, which then uses parameters that are one update old; null never."""
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
        if self.offload != "host" and (self.offload_ratio != 1 or self.offload_delay is not None):
            raise ValueError(
                f'offload_ratio and offload_delay belong to offload = "host"; it is "{self.offload}"'
            )
        if self.offload_delay is not None and self.offload_ratio != 1:
            raise ValueError(
                f"offload_delay needs offload_ratio = 1 and it is {self.offload_ratio}: what stays on the "
                "device is updated in the step itself"
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
