"""RoBERTa as values of the one transformer, and its Hugging Face config.json.

BERT's layers without next-sentence pairs; positions begin at row 2 of their table (row 1 is padding's), and
the norms' epsilon is 1e-5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.models.bert_like import (
    FREE,
    common_from_hf,
    common_to_hf,
    is_bare,
    offset_from_hf,
    offset_to_hf,
    require_gelu,
)
from mainspring.models.hf import differences
from mainspring.nn.config import Absolute, TransformerConfig

OFFSET = 2
"""Rows of the position table before position 0 in published models: the padding token's number plus 1."""


def roberta(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A RoBERTa with its masked-language-model head (Liu et al. 2019, section 4)."""
    values: dict[str, Any] = {
        "d_ff": 4 * d_model,
        "activation": "gelu",
        "vocab_size": 50265,
        "max_positions": 512,
        "positions": (Absolute(offset=OFFSET),),
        "type_vocab": 1,
        "embed_norm": True,
        "norm_place": "post",
        "norm_eps": 1e-5,
        "head_transform": True,
        "head_bias": True,
        "scale_residual": False,
        **other,
    }
    return TransformerConfig(d_model=d_model, n_layers=n_layers, n_heads=n_heads, **values)


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": roberta(128, 2, 2, vocab_size=8192, max_positions=256),
        "base": roberta(768, 12, 12),
        "large": roberta(1024, 24, 16),
    }
)
"""Published sizes (125 and 355 million parameters) after a tiny one."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of a RoBERTa.

    Raises:
        WeightsError: the configuration has parts that RoBERTa has not; each is named.
    """
    return roberta_to_hf(config, roberta, "RoBERTa", "Roberta", "roberta")


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that a RoBERTa's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    return roberta_from_hf(values, names, "RoBERTa")


def roberta_to_hf(
    config: TransformerConfig, shape: Any, family: str, classes: str, model_type: str
) -> dict[str, Any]:
    """config.json of a model with RoBERTa's layout.

    Args:
        config: the model.
        shape: makes the family's configuration of a width, depth and number of heads.
        family: name for messages.
        classes: what the names of the published classes begin with.
        model_type: `model_type` of config.json.
    """
    pad = offset_to_hf(config, family)
    positions = (Absolute(offset=pad + 1),)
    differences(
        config, shape(config.d_model, config.depth, config.n_heads, positions=positions), FREE, family
    )
    require_gelu(config, family)
    return {
        "architectures": [f"{classes}Model" if config.head == "none" else f"{classes}ForMaskedLM"],
        "model_type": model_type,
        **common_to_hf(config, family),
        "pad_token_id": pad,
    }


def roberta_from_hf(
    values: Mapping[str, Any], names: Collection[str], family: str, **other: Any
) -> TransformerConfig:
    """The configuration of a model with RoBERTa's layout; `other` fields go over what it says."""
    offset = offset_from_hf(values)
    fields = common_from_hf({"layer_norm_eps": 1e-5, **values}, names, offset=offset)
    fields["positions"] = (Absolute(offset=offset),)
    head = "none" if is_bare(values, names, "lm_head.") else "tokens"
    bare = {"head_transform": False, "head_bias": False} if head == "none" else {}
    config = roberta(**{**fields, "head": head, **bare, **other})
    require_gelu(config, family)
    return config
