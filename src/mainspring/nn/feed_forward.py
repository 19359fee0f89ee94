"""The feed-forward of a layer and its activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.nn.config import Activation, TransformerConfig
from mainspring.nn.linear import Closing, Linear, LinearMap
from mainspring.nn.peers import ALONE, Along, Peers


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


def apply_activation(kind: Activation, inner: Tensor) -> Tensor:
    """The non-linearity of a feed-forward: [..., inner] -> [..., d_ff]; gated kinds take (gate, value) in
    turns."""
    if kind not in ("swiglu", "geglu"):
        return activate(kind)(inner)
    # The width is said, not left to -1: a rank of experts may have no rows at all.
    gate, value = inner.view(*inner.shape[:-1], inner.shape[-1] // 2, 2).unbind(-1)
    return activate(kind)(gate) * value


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between; gated kinds multiply it with a second projection.

    For gated kinds the rows of `up` are ordered [d_ff, (gate, value)], so that a slice of the inner width
    is a slice of rows.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.activation = config.activation
        self.up = Linear(config.d_model, config.d_ff * (2 if config.gated else 1), bias=config.bias)
        self.down = Closing(config.d_ff, config.d_model, bias=config.bias)

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By columns of the inner width."""
        inner = self.down.in_features
        across, along = Along(0, inner, "d_ff"), Along(1, inner, "d_ff")
        return {"up.weight": across, "up.bias": across, "down.weight": along}

    def into_residual(self) -> list[nn.Module]:
        """The maps that write into the residual stream."""
        return [self.down]

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        out: Tensor = self.down(self._activated(self.peers.enter(x)))
        return out

    def _activated(self, x: Tensor) -> Tensor:
        up = self.up
        hooked = up._forward_hooks or up._forward_pre_hooks  # hooks see the plain map
        if isinstance(up, LinearMap) and not hooked:
            inner = up.activated(x, self.activation)
            if inner is not None:
                return inner
        return apply_activation(self.activation, up(x))
