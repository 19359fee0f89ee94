"""A network, its slowly following copy, and a queue of what the copy has said: the parts of MoCo.

He et al. 2020 (arXiv 1911.05722), section 3.2: keys come from the copy, whose weights are an exponential
average of the network's, and the keys of former steps are the negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.errors import ConfigError
from mainspring.nn.dtensor import is_dtensor
from mainspring.nn.head import Columns
from mainspring.nn.linear import Linear
from mainspring.nn.transformer import Transformer
from mainspring.objectives.around import AroundNetwork


class MomentumContrast(AroundNetwork):
    """The network with a projection, copies of both, and the queue.

    Args:
        network: what is trained.
        layer: the layer whose first token stands for a row (0: the embeddings).
        size: keys that the queue holds.

    Raises:
        ConfigError: the network has no such layer.
    """

    queue: Tensor
    """Keys of former steps, [size, D]; key number n is at n mod size."""
    stored: Tensor
    """How many keys have ever been stored, int64 [1]."""

    def __init__(self, network: Transformer, layer: int, size: int) -> None:
        super().__init__(network)
        if layer > network.config.depth:
            raise ConfigError(
                f"objective.layer = {layer}: the model has {network.config.depth} layers; "
                f"nearest legal value: {network.config.depth}"
            )
        width = network.config.d_model
        self.layer = layer
        self.projection = Linear(width, width, bias=False)
        self.slow_network = Transformer(network.config)
        self.slow_projection = Linear(width, width, bias=False)
        for parameter in (*self.slow_network.parameters(), *self.slow_projection.parameters()):
            parameter.requires_grad_(False)
        self.register_buffer("queue", torch.zeros(size, width))
        self.register_buffer("stored", torch.zeros(1, dtype=torch.int64))
        self.pending: list[Tensor] = []
        """Keys of this step on this rank, by micro-batch."""

    def forward(
        self,
        batch: TokenBatch,
        *,
        part: Literal["network", "query", "key"] = "network",
        select: Tensor | None = None,
        columns: Columns = "all",
    ) -> Any:
        """The network's output; or the queries or keys of rows, [B, D] in fp32, which `select` and `columns`
        do not concern."""
        if part == "network":
            return self.network(batch, select=select, columns=columns)
        if part == "query":
            return self._represent(self.network, self.projection, batch)
        with torch.no_grad():
            return self._represent(self.slow_network, self.slow_projection, batch)

    def blocks(self) -> list[nn.Module]:
        """The layers of the network and of its copy."""
        return [*self.network.blocks(), *self.slow_network.blocks()]

    def negatives(self) -> Tensor:
        """Keys that have been stored and not overwritten: [at most size, D]."""
        return self.queue[: int(self.stored.clamp(max=self.queue.shape[0]))]

    @torch.no_grad()
    def start(self) -> None:
        """Make the copy equal to the network, and the queue empty."""
        for slow, fast in self._averaged():
            slow.copy_(fast)
        self.queue.zero_()
        self.stored.zero_()

    @torch.no_grad()
    def store(self, keys: Tensor) -> None:
        """Put keys [N, D] into the queue, over the oldest."""
        size = self.queue.shape[0]
        first = int(self.stored)
        number = torch.arange(first, first + keys.shape[0], device=keys.device)[-size:]
        self.queue[number % size] = keys[-size:].to(self.queue.dtype)
        self.stored += keys.shape[0]

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """copy := momentum * copy + (1 - momentum) * network."""
        for slow, fast in self._averaged():
            slow.lerp_(fast, 1 - momentum)

    def _averaged(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's parts of the copy's parameters and of those that they follow."""
        for slow, fast in ((self.slow_network, self.network), (self.slow_projection, self.projection)):
            for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
                yield _local(one), _local(other)

    def _represent(self, network: nn.Module, projection: nn.Module, batch: TokenBatch) -> Tensor:
        nowhere = torch.zeros_like(batch.ids, dtype=torch.bool)
        states = network(batch, select=nowhere, states=True).states
        projected: Tensor = projection(states[self.layer][:, 0])
        return projected.float()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_dtensor(tensor) else tensor
