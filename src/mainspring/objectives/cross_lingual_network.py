"""A network with what Unicoder's tasks need beside it: an attention over a translation, and a classifier."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.nn.head import Columns
from mainspring.nn.linear import Linear
from mainspring.nn.transformer import Transformer
from mainspring.objectives.around import AroundNetwork


class CrossLingualNetwork(AroundNetwork):
    """The network, the weights w of the attention, and two classes over a row's first token."""

    def __init__(self, network: Transformer) -> None:
        super().__init__(network)
        width = network.config.d_model
        self.affinity = Linear(3 * width, 1, bias=False)
        self.classes = Linear(width, 2)

    def forward(
        self,
        batch: TokenBatch,
        *,
        part: Literal["network", "recover", "classify"] = "network",
        other: TokenBatch | None = None,
        select: Tensor | None = None,
        columns: Columns = "all",
    ) -> Any:
        """The network's output; that output where it reads `batch` rebuilt from `other`; or class scores
        [B, 2].
        """
        if part == "classify":
            nowhere = torch.zeros_like(batch.ids, dtype=torch.bool)
            return self.classes(self.network(batch, select=nowhere).hidden[:, 0])
        if part == "network":
            return self.network(batch, select=select, columns=columns)
        assert other is not None, "there is nothing to recover the words from"
        return self.network(batch, embeds=self._rebuilt(batch, other), select=select, columns=columns)

    def blocks(self) -> list[nn.Module]:
        """The layers of the network."""
        return self.network.blocks()

    def _rebuilt(self, batch: TokenBatch, other: TokenBatch) -> Tensor:
        """x^t_i = sum_j softmax_j(w . [x_i; y_j; x_i * y_j]) y_j: [B, S, D]."""
        x, y = self.network.embed(batch), self.network.embed(other)
        own, theirs, both = self.affinity.weight.view(3, -1).to(x.dtype)
        scores = (x @ own)[:, :, None] + (y @ theirs)[:, None, :] + (x * both) @ y.transpose(1, 2)
        if other.valid is not None:
            scores = scores.masked_fill(~other.valid[:, None, :], float("-inf"))
        return torch.softmax(scores.float(), dim=-1).to(y.dtype) @ y
