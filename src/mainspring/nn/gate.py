"""Gated relative position bias: each token decides how much distance matters to it, layer by layer.

Source: Chi et al. 2021 (XLM-E, arXiv 2106.16138), "gated relative position bias", with Cho et al. 2014's two
gates: for a bias d of a query i and key j, `d + u*d + (1 - u)*w*r*d` where `u = sigmoid(x_i . a)` and
`r = sigmoid(x_i . b)`. The paper takes the projected query of a head for x; the authors' public code and
checkpoints (WavLM's) take the head's slice of what enters the layer. `T5Bias.gate` names which. As in that
code, the first gate's map gives 1 - u.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mainspring.nn.config import TransformerConfig
from mainspring.nn.linear import linear
from mainspring.nn.peers import ALONE, Along, Peers


class PositionGate(nn.Module):
    """A factor of each query and head on its position scores. The two gates are shared by the heads."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        assert config.t5_bias is not None
        self.by_query = config.t5_bias.gate == "query"
        self.heads = config.n_heads
        self.gates = nn.Linear(config.head_width, 2)
        self.scale = nn.Parameter(torch.ones(config.n_heads))

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By heads; the gates are every head's."""
        return {"scale": Along(0, self.heads, "heads")}

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        """What the position scores of each query are multiplied by.

        Legend: B rows, T queries, H heads, E head width.

        Args:
            x: what enters the layer, [B, T, H * E].
            q: projected queries, [B, H, T, E].

        Returns:
            [B, H, T].
        """
        features = q
        if not self.by_query:
            features = self.peers.part(x.view(*x.shape[:2], self.heads, -1), 2).transpose(1, 2)
        gates = self.peers.share(self.gates.weight, self.gates.bias)
        keep, reset = torch.sigmoid(linear(features, *gates)).unbind(-1)
        factor: Tensor = 2 + keep * (reset * self.scale[:, None] - 1)
        return factor


def gated_scores(factor: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Scores of positions times a gate's factor, minus infinity where a mask forbids.

    Args:
        factor: [B, H, T].
        bias: scores of positions, [B or 1, H, T, S].
        mask: bool, broadcastable to [B, 1, T, S], True where allowed (None: everywhere).

    Returns:
        [B, H, T, S].
    """
    scores = factor[..., None] * bias
    return scores if mask is None else scores.masked_fill(~mask, -math.inf)
