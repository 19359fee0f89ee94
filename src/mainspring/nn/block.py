"""A transformer layer: attention, attention to an encoder, feed-forward, each with a residual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mainspring.nn.attention import CrossAttention, SelfAttention, Sight
from mainspring.nn.cache import Store
from mainspring.nn.config import TransformerConfig
from mainspring.nn.feed_forward import FeedForward
from mainspring.nn.moe.layer import ExpertFeedForward
from mainspring.nn.peers import ALONE, Along, Peers


def make_norm(config: TransformerConfig, width: int | None = None) -> nn.LayerNorm | nn.RMSNorm:
    """The normalisation that the configuration names, over a width (None: the model's)."""
    width = config.d_model if width is None else width
    if config.norm == "rms":
        return nn.RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


class LayerOutput(NamedTuple):
    """What a layer gives beside the residual stream."""

    x: Tensor
    """[B, T, D]."""
    auxiliary: Tensor | None = None
    """Losses of its experts, fp32 [2]."""
    projections: Tensor | None = None
    """Queries, keys and values of its self-attention before rotation, [B, T, H (q, k, v) E]."""


class Gates(NamedTuple):
    """Factors of what a layer's parts add to the residual stream in training; 0: the part is not computed."""

    attention: float = 1.0
    cross: float = 1.0
    feed_forward: float = 1.0


class Block(nn.Module):
    """One layer: the unit of sharding, recomputation and pipelining."""

    def __init__(self, config: TransformerConfig, *, cross: bool = False, experts: int = 0) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.pre = config.norm_place == "pre"
        self.dropout = config.dropout
        self.gates = Gates()
        self.attention = SelfAttention(config)
        self.attention_norm = make_norm(config)
        self.cross = CrossAttention(config) if cross else None
        self.cross_norm = make_norm(config) if cross else None
        self.feed_forward = ExpertFeedForward(config, experts) if experts else FeedForward(config)
        self.feed_forward_norm = make_norm(config)

    @property
    def cuts(self) -> Mapping[str, Along]:
        """None of its own."""
        return {}

    def on_stream(self) -> list[nn.Module]:
        """What works on the stream, each token by itself."""
        norms = (self.attention_norm, self.cross_norm, self.feed_forward_norm)
        return [norm for norm in norms if norm is not None]

    def into_residual(self) -> list[nn.Module]:
        """The projections that write into the residual stream."""
        cross = [] if self.cross is None else [self.cross.out]
        return [self.attention.out, *cross, *self.feed_forward.into_residual()]

    def forward(
        self,
        x: Tensor,
        sight: Sight,
        memory: Tensor | None = None,
        cross_sight: Sight | None = None,
        store: Store | None = None,
        remat: bool = False,
        context: Tensor | None = None,
        valid: Tensor | None = None,
        expose: bool = False,
    ) -> Tensor | LayerOutput:
        """Apply the layer.

        Args:
            x: residual stream, [B, T, D].
            sight: who sees whom.
            memory: the encoder's output, [B, S, D].
            cross_sight: who sees what of the memory.
            store: this layer's cache.
            context: what the tokens attend to in place of one another, [B, S, D] (a mask decoder's).
            remat: keep only the inputs for backward and compute the rest again (Chen et al. 2016).
            valid: False at padding, bool [B, T] (None: no padding); matters to a layer with experts.
            expose: also return what self-attention projects.

        Returns:
            [B, T, D]; where there is more to give, with that.
        """
        if remat and torch.is_grad_enabled():
            # Inside the layer, so that a wrapper's hooks (gathering shards) run once, not twice.
            again: Tensor | LayerOutput = checkpoint(
                self._apply_layer,
                x,
                sight,
                memory,
                cross_sight,
                store,
                context,
                valid,
                expose,
                use_reentrant=False,
            )
            return again
        return self._apply_layer(x, sight, memory, cross_sight, store, context, valid, expose)

    def _apply_layer(
        self,
        x: Tensor,
        sight: Sight,
        memory: Tensor | None,
        cross_sight: Sight | None,
        store: Store | None,
        context: Tensor | None,
        valid: Tensor | None,
        expose: bool,
    ) -> Tensor | LayerOutput:
        fused: list[Tensor] | None = [] if expose else None
        attention, gates = self.attention, self.gates if self.training else Gates()
        x = self._residual(
            x, self.attention_norm, lambda h: attention(h, sight, store, context, fused), gates.attention
        )
        shown = fused[0] if fused else None
        if self.cross is not None and self.cross_norm is not None:
            assert cross_sight is not None, "a decoder layer beside an encoder needs cross_sight"
            cross = self.cross
            x = self._residual(
                x, self.cross_norm, lambda h: cross(h, memory, cross_sight, store), gates.cross
            )
        if not isinstance(self.feed_forward, ExpertFeedForward):
            x = self._residual(x, self.feed_forward_norm, self.feed_forward, gates.feed_forward)
            return x if shown is None else LayerOutput(x, None, shown)
        y, auxiliary = self.feed_forward(self.feed_forward_norm(x) if self.pre else x, valid)
        return LayerOutput(self._add(x, self.feed_forward_norm, y), auxiliary, shown)

    def _residual(
        self, x: Tensor, norm: nn.Module, layer: Callable[[Tensor], Tensor], factor: float
    ) -> Tensor:
        if not factor:
            return x
        y = layer(norm(x) if self.pre else x)
        return self._add(x, norm, y if factor == 1.0 else y * factor)

    def _add(self, x: Tensor, norm: nn.Module, y: Tensor) -> Tensor:
        if self.training and self.dropout:
            y = self.peers.drop(y, self.dropout)
        x = x + y
        normed: Tensor = x if self.pre else norm(x)
        return normed
