"""DeBERTa as values of the one transformer.

Two generations: v1 has a vector for each distance and projections of them in every layer; v2, v3 and mDeBERTa
have logarithmic buckets, a norm over their vectors, and project them as tokens. Positions enter only
in the mask decoder, which predicts hidden tokens (v1, 3.2); v3 is trained to find replaced ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mainspring.nn.config import Absolute, Convolution, Disentangled, TransformerConfig

DECODER = Absolute(place="decoder")
"""Positions that only the mask decoder sees."""
CONVOLUTION = Convolution(kernel=3, activation="gelu")
"""The convolution of the published v2 models."""


def deberta(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A DeBERTa-v1 with its masked-language-model head (He et al. 2021, section 3)."""
    scheme = Disentangled(max_distance=512, shared=False, key_bias=False)
    values = {"vocab_size": 50265, "positions": (scheme, DECODER), "key_bias": False, **other}
    return _common(d_model, n_layers, n_heads, values)


def deberta_v2(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A DeBERTa-v2 or v3 with its masked-language-model head (the published code of v2; He et al. 2023)."""
    scheme = Disentangled(max_distance=512, buckets=256, norm_table=True)
    values = {"vocab_size": 128100, "positions": (scheme, DECODER), **other}
    return _common(d_model, n_layers, n_heads, values)


def discriminator(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A DeBERTa-v3 that finds replaced tokens (He et al. 2023, section 3.1)."""
    head = {"head": "replaced", "head_context": True, "head_transform": False, "head_bias": False}
    scheme = Disentangled(max_distance=512, buckets=256, norm_table=True)
    return deberta_v2(d_model, n_layers, n_heads, **{"positions": (scheme,), **head, **other})


def _common(d_model: int, n_layers: int, n_heads: int, other: Mapping[str, Any]) -> TransformerConfig:
    values: dict[str, Any] = {
        "d_ff": 4 * d_model,
        "activation": "gelu",
        "max_positions": 512,
        "embed_norm": True,
        "embed_mask": True,
        "norm_place": "post",
        "norm_eps": 1e-7,
        "head_transform": True,
        "head_bias": True,
        "pooler_activation": "gelu",
        "scale_residual": False,
        **other,
    }
    return TransformerConfig(d_model=d_model, n_layers=n_layers, n_heads=n_heads, **values)


PRESETS_V1: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": deberta(128, 2, 2),
        "base": deberta(768, 12, 12),
        "large": deberta(1024, 24, 16),
        "xlarge": deberta(1024, 48, 16),
    }
)
"""Published encoders of 139, 405 and 758 million parameters, after a tiny one."""

PRESETS_V2: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": deberta_v2(128, 2, 2),
        "tiny-discriminator": discriminator(128, 2, 2),
        "v3-xsmall": deberta_v2(384, 12, 6),
        "v3-small": deberta_v2(768, 6, 12),
        "v3-base": deberta_v2(768, 12, 12),
        "v3-base-discriminator": discriminator(768, 12, 12),
        "mdeberta-v3-base": deberta_v2(768, 12, 12, vocab_size=251000),
        "v3-large": deberta_v2(1024, 24, 16),
        "v3-large-discriminator": discriminator(1024, 24, 16),
        "v2-xlarge": deberta_v2(1536, 24, 24, conv=CONVOLUTION),
        "v2-xxlarge": deberta_v2(1536, 48, 24, conv=CONVOLUTION),
    }
)
"""Published encoders from 71 million to 1.56 billion parameters, after tiny ones."""
