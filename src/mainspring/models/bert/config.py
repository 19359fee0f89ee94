"""BERT as values of the one transformer, and its Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.errors import WeightsError
from mainspring.models.bert_like import FREE, is_bare
from mainspring.models.hf import VOCAB_ROWS, activation_from_hf, activation_to_hf, differences, required
from mainspring.nn.config import TransformerConfig


def bert(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A BERT with its masked-language-model head (Devlin et al. 2019, section 3)."""
    values: dict[str, Any] = {
        "d_ff": 4 * d_model,
        "activation": "gelu",
        "vocab_size": 30522,
        "max_positions": 512,
        "type_vocab": 2,
        "embed_norm": True,
        "norm_place": "post",
        "norm_eps": 1e-12,
        "head_transform": True,
        "head_bias": True,
        "scale_residual": False,
        **other,
    }
    return TransformerConfig(d_model=d_model, n_layers=n_layers, n_heads=n_heads, **values)


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {"tiny": bert(128, 2, 2), "base": bert(768, 12, 12), "large": bert(1024, 24, 16)}
)
"""Published sizes (110 and 335 million parameters) after a tiny one."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of a BERT.

    Raises:
        WeightsError: the configuration has parts that BERT has not; each is named.
    """
    shape = bert(config.d_model, config.depth, config.n_heads)
    differences(config, shape, (*FREE, "pair_classes"), "BERT")
    if config.pair_classes not in (0, 2) or config.type_vocab == 0:
        raise WeightsError(
            f"BERT has 2 pair classes or none and at least 1 segment, not pair_classes = "
            f"{config.pair_classes} and type_vocab = {config.type_vocab}"
        )
    if config.head == "none" and not config.pair_classes:
        architecture = "BertModel"
    elif config.head == "tokens" and config.head_transform and config.head_bias:
        architecture = "BertForPreTraining" if config.pair_classes else "BertForMaskedLM"
    else:
        raise WeightsError(
            f"BERT has no head at all, or one with a transform and a bias, not head = {config.head!r}, "
            f"head_transform = {config.head_transform}, head_bias = {config.head_bias}, pair_classes = "
            f"{config.pair_classes}"
        )
    return {
        "architectures": [architecture],
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "hidden_act": activation_to_hf(config.activation, "BERT"),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.type_vocab,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_eps,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": config.tied,
        "use_cache": True,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that a BERT's config.json and the names of its weights describe.

    Published files name one architecture and hold another's weights: the pooler and next-sentence head are
    there if their weights are.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    for key, plain in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if values.get(key, plain) != plain:
            raise WeightsError(f"config.json: {key} = {values[key]} is not supported; only {plain} is")
    bare = is_bare(values, names, "cls.")
    return bert(
        required(values, "hidden_size"),
        required(values, "num_hidden_layers"),
        required(values, "num_attention_heads"),
        d_ff=required(values, "intermediate_size"),
        vocab_size=required(values, "vocab_size"),
        vocab_rows=values.get(VOCAB_ROWS),
        activation=activation_from_hf(values.get("hidden_act", "gelu")),
        max_positions=values.get("max_position_embeddings", 512),
        type_vocab=values.get("type_vocab_size", 2),
        norm_eps=float(values.get("layer_norm_eps", 1e-12)),
        tied=values.get("tie_word_embeddings", True),
        pooler=any(n.endswith("pooler.dense.weight") for n in names),
        head="none" if bare else "tokens",
        head_transform=not bare,
        head_bias=not bare,
        pair_classes=2 if any(n.endswith("seq_relationship.weight") for n in names) else 0,
        dropout=float(values.get("hidden_dropout_prob", 0.1)),
        attention_dropout=float(values.get("attention_probs_dropout_prob", 0.1)),
        init_std=float(values.get("initializer_range", 0.02)),
    )
