"""GPT-2 as values of the one transformer, and its Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.errors import WeightsError
from mainspring.models.hf import VOCAB_ROWS, activation_from_hf, activation_to_hf, differences, required
from mainspring.nn.config import TransformerConfig


def gpt2(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A GPT-2 of a width, depth and number of heads (Radford et al. 2019, table 2)."""
    values: dict[str, Any] = {
        "d_ff": 4 * d_model,
        "activation": "gelu_tanh",
        "vocab_size": 50257,
        "max_positions": 1024,
        **other,
    }
    return TransformerConfig(d_model=d_model, n_layers=n_layers, n_heads=n_heads, **values)


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": gpt2(128, 4, 4, vocab_size=8192, max_positions=256),
        "small": gpt2(768, 12, 12),
        "medium": gpt2(1024, 24, 16),
        "large": gpt2(1280, 36, 20),
        "xl": gpt2(1600, 48, 25),
    }
)
"""Published sizes (124, 355, 774, 1558 million parameters) after a tiny one for tests."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of a GPT-2.

    Raises:
        WeightsError: the configuration has parts that GPT-2 has not; each is named.
    """
    shape = gpt2(config.d_model, config.depth, config.n_heads)
    free = (
        "d_ff",
        "activation",
        "vocab_size",
        "vocab_rows",
        "max_positions",
        "norm_eps",
        "tied",
        "dropout",
        "attention_dropout",
        "init_std",
        "scale_residual",
    )
    differences(config, shape, free, "GPT-2")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": activation_to_hf(config.activation, "GPT-2"),
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": config.tied,
        "use_cache": True,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that a GPT-2's config.json describes (absent keys have Hugging Face's defaults).

    Raises:
        WeightsError: it asks for a variant of attention that this transformer does not have.
    """
    for key, plain in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if values.get(key, plain) != plain:
            raise WeightsError(f"config.json: {key} = {values[key]} is not supported; only {plain} is")
    width = required(values, "n_embd")
    return gpt2(
        width,
        required(values, "n_layer"),
        required(values, "n_head"),
        d_ff=values.get("n_inner") or 4 * width,
        vocab_size=required(values, "vocab_size"),
        vocab_rows=values.get(VOCAB_ROWS),
        activation=activation_from_hf(values.get("activation_function", "gelu_new")),
        max_positions=values.get("n_positions", 1024),
        norm_eps=float(values.get("layer_norm_epsilon", 1e-5)),
        tied=values.get("tie_word_embeddings", True),
        dropout=float(values.get("resid_pdrop", 0.1)),
        attention_dropout=float(values.get("attn_pdrop", 0.1)),
        init_std=float(values.get("initializer_range", 0.02)),
    )
