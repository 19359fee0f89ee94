"""What families with BERT's layers share: names of weights, and fields of config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mainspring.errors import WeightsError
from mainspring.models.hf import VOCAB_ROWS, activation_from_hf, activation_to_hf, required
from mainspring.models.transforms import FusedHeads, VocabularyRows
from mainspring.models.weights import Rule
from mainspring.nn.config import TransformerConfig

FREE = (
    "d_ff",
    "activation",
    "vocab_size",
    "vocab_rows",
    "max_positions",
    "type_vocab",
    "norm_eps",
    "head",
    "head_transform",
    "head_bias",
    "tied",
    "pooler",
    "dropout",
    "attention_dropout",
    "init_std",
    "scale_residual",
)
"""Fields of the configuration in which models of such a family may differ."""


def linear_or_norm(ours: str, theirs: str) -> tuple[Rule, Rule]:
    """Rules of a module with a weight and a bias."""
    return Rule(f"{ours}.weight", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")


def encoder_rules(root: str, *, norm_first: bool = False) -> tuple[Rule, ...]:
    """Rules of embeddings, layers and pooler.

    Args:
        root: name of the encoder in the published model ("roberta").
        norm_first: with the names of XLM-R XL, whose layers begin with their norms.
    """
    ours, theirs = "layers.{i}", f"{root}.encoder.layer.{{i}}"
    attention, embeddings = f"{theirs}.attention", f"{root}.embeddings"
    first = f"{attention}.self_attn_layer_norm" if norm_first else f"{attention}.output.LayerNorm"
    second = f"{theirs}.LayerNorm" if norm_first else f"{theirs}.output.LayerNorm"
    return (
        Rule("embeddings.token.weight", f"{embeddings}.word_embeddings.weight", VocabularyRows()),
        Rule("embeddings.position.weight", f"{embeddings}.position_embeddings.weight"),
        Rule("embeddings.segment.weight", f"{embeddings}.token_type_embeddings.weight"),
        *linear_or_norm("embeddings.norm", f"{embeddings}.LayerNorm"),
        *(
            Rule(
                f"{ours}.attention.qkv.{kind}",
                tuple(f"{attention}.self.{part}.{kind}" for part in ("query", "key", "value")),
                FusedHeads(),
            )
            for kind in ("weight", "bias")
        ),
        *linear_or_norm(f"{ours}.attention.out", f"{attention}.output.dense"),
        *linear_or_norm(f"{ours}.attention_norm", first),
        *linear_or_norm(f"{ours}.feed_forward.up", f"{theirs}.intermediate.dense"),
        *linear_or_norm(f"{ours}.feed_forward.down", f"{theirs}.output.dense"),
        *linear_or_norm(f"{ours}.feed_forward_norm", second),
        *linear_or_norm("norm", f"{root}.encoder.LayerNorm"),
        *linear_or_norm("pooler.dense", f"{root}.pooler.dense"),
    )


def common_to_hf(config: TransformerConfig, family: str) -> dict[str, Any]:
    """Fields of config.json that such families have in common; max_position_embeddings counts rows.

    Raises:
        WeightsError: the published layout cannot express the model.
    """
    if config.type_vocab == 0:
        raise WeightsError(f"{family} has at least 1 segment, not type_vocab = 0")
    scheme = config.absolute
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "hidden_act": activation_to_hf(config.activation, family),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions + (scheme.offset if scheme else 0),
        "type_vocab_size": config.type_vocab,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "use_cache": True,
    }


def common_from_hf(values: Mapping[str, Any], names: Collection[str], *, offset: int = 0) -> dict[str, Any]:
    """Fields of `TransformerConfig` from such a family's config.json and the names of its weights.

    Args:
        values: config.json.
        names: published names of the weights.
        offset: rows of the position table before position 0.

    Raises:
        WeightsError: a field is absent, or asks for a variant that this transformer does not have.
    """
    for key, plain in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if values.get(key, plain) != plain:
            raise WeightsError(f"config.json: {key} = {values[key]} is not supported; only {plain} is")
    return {
        "d_model": required(values, "hidden_size"),
        "n_layers": required(values, "num_hidden_layers"),
        "n_heads": required(values, "num_attention_heads"),
        "d_ff": required(values, "intermediate_size"),
        "vocab_size": required(values, "vocab_size"),
        "vocab_rows": values.get(VOCAB_ROWS),
        "activation": activation_from_hf(values.get("hidden_act", "gelu")),
        "max_positions": values.get("max_position_embeddings", 512) - offset,
        "type_vocab": values.get("type_vocab_size", 2),
        "norm_eps": float(values.get("layer_norm_eps", 1e-12)),
        "tied": values.get("tie_word_embeddings", True),
        "pooler": any(n.endswith("pooler.dense.weight") for n in names),
        "dropout": float(values.get("hidden_dropout_prob", 0.1)),
        "attention_dropout": float(values.get("attention_probs_dropout_prob", 0.1)),
        "init_std": float(values.get("initializer_range", 0.02)),
    }


def offset_from_hf(values: Mapping[str, Any]) -> int:
    """Offset of fairseq's positions: the padding token's number plus one (2 where config.json is silent)."""
    pad = values.get("pad_token_id")
    return (pad if isinstance(pad, int) else 1) + 1


def offset_to_hf(config: TransformerConfig, family: str) -> int:
    """Number that the padding token must have for transformers to begin positions where the model does.

    Raises:
        WeightsError: the model's positions have no offset.
    """
    scheme = config.absolute or config.sinusoidal
    if scheme is None or scheme.offset == 0:
        raise WeightsError(
            f"{family}'s positions begin after the padding token's number: positions = {config.positions!r} "
            f"have no offset"
        )
    return scheme.offset - 1


def is_bare(values: Mapping[str, Any], names: Collection[str], head: str) -> bool:
    """Whether a checkpoint says it is an encoder alone and holds no weight of a head.

    Args:
        values: config.json, whose `architectures` then names a "...Model".
        names: published names of the weights.
        head: what the names of the head's weights begin with.
    """
    architectures = values.get("architectures") or [""]
    says = str(architectures[0]).endswith("Model") and not str(architectures[0]).endswith("LMHeadModel")
    return says and not any(n.startswith(head) for n in names)


def require_gelu(config: TransformerConfig, family: str) -> None:
    """Refuse another activation where the family's head has GELU whatever the layers have.

    Raises:
        WeightsError: the activation is another.
    """
    if config.head == "tokens" and config.activation != "gelu":
        raise WeightsError(
            f"{family}'s prediction head always uses gelu: activation = {config.activation!r} cannot be"
        )
