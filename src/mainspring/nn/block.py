"""A transformer layer: attention, attention to an encoder, feed-forward, each with a residual."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mainspring.nn.attention import CrossAttention, SelfAttention, Sight
from mainspring.nn.cache import LayerCache
from mainspring.nn.config import Activation, TransformerConfig
from mainspring.nn.linear import Linear


def make_norm(config: TransformerConfig, width: int | None = None) -> nn.LayerNorm | nn.RMSNorm:
    """The normalisation that the configuration names, over a width (None: the model's)."""
    width = config.d_model if width is None else width
    if config.norm == "rms":
        return nn.RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


def activate(kind: Activation) -> Callable[[Tensor], Tensor]:
    """The pointwise function of an activation (of the gate's half, for gated ones)."""
    functions: dict[Activation, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_tanh": _gelu_tanh,
        "relu": F.relu,
        "swiglu": F.silu,
        "geglu": _gelu_tanh,
    }
    return functions[kind]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between; gated kinds multiply it with a second projection.

    For gated kinds the rows of `up` are ordered [d_ff, (gate, value)], so that a slice of the inner width
    is a slice of rows.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, activate(config.activation)
        self.up = Linear(config.d_model, config.d_ff * (2 if config.gated else 1), bias=config.bias)
        self.down = Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        inner: Tensor = self.up(x)
        if self.gated:
            gate, value = inner.view(*inner.shape[:-1], -1, 2).unbind(-1)
            inner = self.activation(gate) * value
        else:
            inner = self.activation(inner)
        out: Tensor = self.down(inner)
        return out


class Block(nn.Module):
    """One layer: the unit of sharding, recomputation and pipelining."""

    def __init__(self, config: TransformerConfig, *, cross: bool = False) -> None:
        super().__init__()
        self.pre = config.norm_place == "pre"
        self.dropout = config.dropout
        self.attention = SelfAttention(config)
        self.attention_norm = make_norm(config)
        self.cross = CrossAttention(config) if cross else None
        self.cross_norm = make_norm(config) if cross else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = make_norm(config)

    def into_residual(self) -> list[nn.Module]:
        """The projections that write into the residual stream."""
        cross = [] if self.cross is None else [self.cross.out]
        return [self.attention.out, *cross, self.feed_forward.down]

    def forward(
        self,
        x: Tensor,
        sight: Sight,
        memory: Tensor | None = None,
        cross_sight: Sight | None = None,
        store: LayerCache | None = None,
        remat: bool = False,
        context: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer.

        Args:
            x: residual stream, [B, T, D].
            sight: who sees whom.
            memory: the encoder's output, [B, S, D].
            cross_sight: who sees what of the memory.
            store: this layer's cache.
            context: what the tokens attend to in place of one another, [B, S, D] (a mask decoder's).
            remat: keep only the inputs for backward and compute the rest again (Chen et al. 2016).

        Returns:
            [B, T, D].
        """
        if remat and torch.is_grad_enabled():
            # Inside the layer, so that a wrapper's hooks (gathering shards) run once, not twice.
            again: Tensor = checkpoint(
                self._apply_layer, x, sight, memory, cross_sight, store, context, use_reentrant=False
            )
            return again
        return self._apply_layer(x, sight, memory, cross_sight, store, context)

    def _apply_layer(
        self,
        x: Tensor,
        sight: Sight,
        memory: Tensor | None,
        cross_sight: Sight | None,
        store: LayerCache | None,
        context: Tensor | None,
    ) -> Tensor:
        x = self._residual(x, self.attention_norm, lambda h: self.attention(h, sight, store, context))
        if self.cross is not None and self.cross_norm is not None:
            assert cross_sight is not None, "a decoder layer beside an encoder needs cross_sight"
            cross = self.cross
            x = self._residual(x, self.cross_norm, lambda h: cross(h, memory, cross_sight, store))
        return self._residual(x, self.feed_forward_norm, self.feed_forward)

    def _residual(self, x: Tensor, norm: nn.Module, layer: Callable[[Tensor], Tensor]) -> Tensor:
        y = layer(norm(x) if self.pre else x)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        x = x + y
        normed: Tensor = x if self.pre else norm(x)
        return normed
