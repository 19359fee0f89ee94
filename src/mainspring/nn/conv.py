"""A convolution over neighbouring tokens, beside the first layer (DeBERTa-v2; He et al. 2021).

    y = norm(x + activation(dropout(conv(e)))), e the embeddings, x the first layer's output

A tap reads the token that stands at its distance, if the mask algebra lets it be seen: packed documents and
padding do not mix, as they do not in attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.nn.config import TransformerConfig
from mainspring.nn.linear import linear


class TokenConvolution(nn.Module):
    """Mixes each token with its neighbours and adds the result to a layer's output."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        scheme, width = config.conv, config.d_model
        assert scheme is not None
        self.reach = scheme.kernel // 2
        self.activation = torch.tanh if scheme.activation == "tanh" else F.gelu
        self.dropout = config.dropout
        self.weight = nn.Parameter(torch.empty(width, width, scheme.kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)

    def forward(self, embedded: Tensor, x: Tensor, batch: TokenBatch) -> Tensor:
        """embedded [B, T, D], x [B, T, D] -> [B, T, D], zero at padding."""
        taps = [
            embedded if step == 0 else _shift(embedded, step) * neighbour(batch, step)[..., None]
            for step in range(-self.reach, self.reach + 1)
        ]
        weight = self.weight.permute(0, 2, 1).reshape(self.weight.shape[0], -1)  # [out, (tap, in)]
        y = linear(torch.cat(taps, dim=-1), weight, self.bias)
        valid = None if batch.valid is None else batch.valid[..., None]
        if valid is not None:
            y = y * valid
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        mixed: Tensor = self.norm(x + self.activation(y))
        return mixed if valid is None else mixed * valid


def neighbour(batch: TokenBatch, step: int) -> Tensor:
    """Whether the token `step` places on stands `step` positions on and may be seen, bool [B, T].

    The one rule of nn.masks, between each token and one other.
    """
    pairs = {name: (data, _shift(data, step)) for name, data in batch._asdict().items() if data is not None}
    length = batch.ids.shape[1]
    index = torch.arange(length, device=batch.ids.device)
    seen: Tensor = ((index + step >= 0) & (index + step < length))[None] & (
        pairs["pos"][1] - pairs["pos"][0] == step
    )
    rank, there = pairs["rank"]
    if "probe" in pairs:
        probe, hidden = pairs["probe"]
        ordinary = ~hidden & (there <= rank - probe.to(rank.dtype))
        seen = seen & (ordinary | (probe & hidden & (rank == there)))
    else:
        seen = seen & (there <= rank)
    if "doc" in pairs:
        seen = seen & (pairs["doc"][0] == pairs["doc"][1])
    return seen & pairs["valid"][1] if "valid" in pairs else seen


def _shift(x: Tensor, step: int) -> Tensor:
    """What stands `step` places on along dim 1, zero beyond the ends. x [B, T, ...]."""
    out = torch.zeros_like(x)
    length = x.shape[1]
    if abs(step) < length:
        here = slice(max(-step, 0), length - max(step, 0))
        there = slice(max(step, 0), length - max(-step, 0))
        out[:, here] = x[:, there]
    return out
