"""One vector of a row: pooling over its tokens, and the encoder that ends in it.

Reimers and Gurevych 2019 (arXiv 1908.10084), section 3. Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mainspring.config import Section
from mainspring.data.batch import TokenBatch
from mainspring.errors import UsageError, suggest
from mainspring.finetune.heads import encoder_config
from mainspring.nn.config import TransformerConfig
from mainspring.nn.linear import Linear
from mainspring.nn.transformer import Transformer

Pooling = Literal["mean", "cls", "max", "last", "mean_sqrt", "weighted_mean"]
"""What of a row's tokens becomes its vector."""


def _mean(hidden: Tensor, weight: Tensor) -> Tensor:
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def _max(hidden: Tensor, weight: Tensor) -> Tensor:
    return hidden.masked_fill(weight == 0, -torch.inf).amax(1)


def _last(hidden: Tensor, weight: Tensor) -> Tensor:
    at = (weight[..., 0].long().cumsum(1) * weight[..., 0].long()).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), at]


def _mean_sqrt(hidden: Tensor, weight: Tensor) -> Tensor:
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9).sqrt()


def _weighted_mean(hidden: Tensor, weight: Tensor) -> Tensor:
    place = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
    return _mean(hidden, weight * place[:, None])


_POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "mean": _mean,
        "cls": lambda hidden, weight: hidden[:, 0],
        "max": _max,
        "last": _last,
        "mean_sqrt": _mean_sqrt,
        "weighted_mean": _weighted_mean,
    }
)


def pooling_named(name: str) -> Pooling:
    """The pooling of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    for known in get_args(Pooling):
        if known == name:
            found: Pooling = known
            return found
    raise UsageError(f"pooling {name!r}: {suggest(name, get_args(Pooling))}")


def pool(hidden: Tensor, valid: Tensor | None, pooling: Pooling) -> Tensor:
    """One vector a row.

    Args:
        hidden: [B, T, D].
        valid: bool [B, T], False at padding, which stands on the right (None: no padding).
        pooling: mean over tokens, the first token, the greatest of each element, the last token, the mean
            times the root of the length, or the mean weighted by position.

    Returns:
        [B, D].
    """
    weight = hidden.new_ones(hidden.shape[:2]) if valid is None else valid.to(hidden.dtype)
    return _POOLS[pooling](hidden, weight[..., None])


class DenseConfig(Section):
    """A dense layer after pooling."""

    width: int = Field(ge=1)
    """Elements of what it gives."""
    bias: bool = True
    """Whether it has a bias."""
    activation: Literal["none", "tanh", "gelu", "relu"] = "tanh"
    """What follows it."""


class EmbedConfig(Section):
    """How a row's vector is made."""

    pooling: tuple[Pooling, ...] = ("mean",)
    """Pooled vectors, one behind the other."""
    dense: tuple[DenseConfig, ...] = ()
    """Layers after it."""
    normalize: bool = False
    """Whether vectors are brought to length 1."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens of a text, its frame included, beyond which it is cut (None: as many as the model has)."""


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"none": lambda x: x, "tanh": torch.tanh, "gelu": F.gelu, "relu": torch.relu}
)


class Embedder(nn.Module):
    """An encoder whose rows become vectors."""

    def __init__(self, config: TransformerConfig, embed: EmbedConfig) -> None:
        """`config` may have heads of pretraining, which are left out."""
        super().__init__()
        self.embed_config = embed
        self.encoder = Transformer(encoder_config(config))
        widths = [config.d_model * len(embed.pooling), *(dense.width for dense in embed.dense)]
        self.dense = nn.ModuleList(
            Linear(before, after, bias=dense.bias)
            for (before, after), dense in zip(pairwise(widths), embed.dense, strict=True)
        )

    def forward(self, batch: TokenBatch) -> Tensor:
        """[B, T] tokens -> [B, width of the vectors]."""
        return self.read(self.encoder(batch).hidden, batch.valid)

    def read(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Vectors of the encoder's output [B, T, D]."""
        x = self.pooled(hidden, valid)
        return F.normalize(x, dim=-1) if self.embed_config.normalize else x

    def pooled(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Vectors before they are brought to length 1."""
        x = torch.cat([pool(hidden, valid, one) for one in self.embed_config.pooling], dim=-1)
        for layer, config in zip(self.dense, self.embed_config.dense, strict=True):
            assert isinstance(layer, Linear)
            x = _ACTIVATIONS[config.activation](layer(x.to(layer.weight.dtype)))
        return x

    def blocks(self) -> list[nn.Module]:
        """The layers: units of sharding and recomputation."""
        return self.encoder.blocks()
