"""A feed-forward of many experts, of which each token takes few: the place of a dense one in a layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mainspring.nn.config import TransformerConfig
from mainspring.nn.feed_forward import FeedForward
from mainspring.nn.linear import Linear
from mainspring.nn.moe.dispatch import Exchange, Local
from mainspring.nn.moe.experts import Experts
from mainspring.nn.moe.gate import Gate
from mainspring.nn.peers import ALONE, Along, Peers


class ExpertFeedForward(nn.Module):
    """Tokens to experts by a gate, and back; a token that found no room gives 0 (the residual carries it).

    With `residual`, a dense feed-forward beside the experts, mixed by the token itself (Rajbhandari et al.
    2022, DeepSpeed-MoE, arXiv 2201.05596, section 4.1): c0 * experts(x) + c1 * dense(x), c = softmax(mix(x)).

    Args:
        config: shape of the model; its `experts` must be set.
        count: number of experts of this layer.
    """

    def __init__(self, config: TransformerConfig, count: int) -> None:
        super().__init__()
        assert config.experts is not None
        self.peers: Peers = ALONE
        self.gate = Gate(config.experts, config.d_model, count)
        self.experts = Experts(config, count)
        self.dense = FeedForward(config) if config.experts.residual else None
        self.mix = Linear(config.d_model, 2) if config.experts.residual else None
        self.exchange: Exchange = Local()
        """How rows reach their experts; expert parallelism sets another."""

    @property
    def cuts(self) -> Mapping[str, Along]:
        """None of its own: every rank decides about all tokens."""
        return {}

    def on_stream(self) -> list[nn.Module]:
        """What mixes experts and the dense feed-forward."""
        return [] if self.mix is None else [self.mix]

    def into_residual(self) -> list[nn.Module]:
        """The maps that write into the residual stream."""
        return [self.experts.down, *([] if self.dense is None else self.dense.into_residual())]

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            x: [B, T, D].
            valid: False at padding, which costs nothing and gives 0, bool [B, T] (None: no padding).

        Returns:
            [B, T, D], and the gate's auxiliary losses, fp32 [2]: balance and z.
        """
        whole = self.peers.join(x)
        flat = whole.reshape(-1, x.shape[-1])
        gated = self.gate(flat, None if valid is None else valid.reshape(-1))
        (inner,), (weight,) = self.peers.share(flat), self.peers.share(gated.routing.weight)
        rows, counts, combine = self.exchange.dispatch(inner, gated.routing._replace(weight=weight))
        out = self.peers.leave(combine(self.experts(rows, counts)).view(whole.shape))
        if self.dense is not None and self.mix is not None:
            share = torch.softmax(self.mix(x), dim=-1)
            out = share[..., :1] * out + share[..., 1:] * self.dense(x)
        return out, gated.auxiliary
