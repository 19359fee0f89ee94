"""DeBERTa's Hugging Face config.json, both generations.

transformers has no mask decoder: it drops `position_embeddings`, so that its logits of published models are
not those that were trained. Here a checkpoint with that table is a model with a mask decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from mainspring.errors import WeightsError
from mainspring.models.deberta.config import DECODER, deberta, deberta_v2
from mainspring.models.hf import VOCAB_ROWS, activation_from_hf, activation_to_hf, differences, required
from mainspring.nn.config import Absolute, Convolution, Disentangled, Position, TransformerConfig

_FREE = (
    "d_ff",
    "activation",
    "vocab_size",
    "vocab_rows",
    "max_positions",
    "type_vocab",
    "positions",
    "conv",
    "norm_eps",
    "head",
    "head_transform",
    "head_bias",
    "head_context",
    "pooler",
    "pooler_activation",
    "dropout",
    "attention_dropout",
    "init_std",
    "scale_residual",
)
_TERMS: Mapping[str, Literal["c2p", "p2c"]] = {"p2c": "p2c", "c2p": "c2p"}


def to_hf_v1(config: TransformerConfig) -> dict[str, Any]:
    """config.json of a DeBERTa-v1.

    Raises:
        WeightsError: the configuration has parts that DeBERTa has not; each is named.
    """
    differences(config, deberta(config.d_model, config.depth, config.n_heads), _FREE, "DeBERTa-v1")
    scheme = _scheme(config, "DeBERTa-v1")
    plain = Disentangled(max_distance=scheme.max_distance, terms=scheme.terms, shared=False, key_bias=False)
    if scheme != plain or config.conv is not None:
        raise WeightsError(
            "DeBERTa-v1 has a row for each distance, projections of them without a bias for keys, no norm "
            f"and no convolution, not {scheme!r} with conv = {config.conv!r}; DeBERTa-v2 may have"
        )
    return {
        **_common_to_hf(config, scheme, "DeBERTa-v1"),
        "model_type": "deberta",
        **_class(config, "Deberta"),
    }


def to_hf_v2(config: TransformerConfig) -> dict[str, Any]:
    """config.json of a DeBERTa-v2 or v3.

    Raises:
        WeightsError: the configuration has parts that DeBERTa has not; each is named.
    """
    differences(config, deberta_v2(config.d_model, config.depth, config.n_heads), _FREE, "DeBERTa-v2")
    scheme = _scheme(config, "DeBERTa-v2")
    if not scheme.key_bias:
        raise WeightsError("DeBERTa-v2 has biases in its projections of distances, not key_bias = False")
    conv = config.conv
    return {
        **_common_to_hf(config, scheme, "DeBERTa-v2"),
        "model_type": "deberta-v2",
        "position_buckets": -1 if scheme.buckets is None else scheme.buckets,
        "share_att_key": scheme.shared,
        "norm_rel_ebd": "layer_norm" if scheme.norm_table else "none",
        **({} if conv is None else {"conv_kernel_size": conv.kernel, "conv_act": conv.activation}),
        **_class(config, "DebertaV2"),
    }


def from_hf_v1(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that a DeBERTa-v1's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    if values.get("talking_head", False):
        raise WeightsError("config.json: talking_head = True is not supported; only False is")
    scheme = Disentangled(max_distance=_distances(values), terms=_terms(values), shared=False, key_bias=False)
    return deberta(**_common_from_hf(values, names, scheme))


def from_hf_v2(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that a DeBERTa-v2's or v3's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    norm = str(values.get("norm_rel_ebd", "none")).lower()
    if norm not in ("none", "layer_norm"):
        raise WeightsError(f"config.json: norm_rel_ebd = {norm!r} is not supported; none and layer_norm are")
    buckets = values.get("position_buckets", -1)
    scheme = Disentangled(
        max_distance=_distances(values),
        buckets=buckets if buckets > 0 else None,
        terms=_terms(values),
        shared=values.get("share_att_key", False),
        norm_table=norm == "layer_norm",
    )
    return deberta_v2(**_common_from_hf(values, names, scheme), conv=_convolution(values))


def _scheme(config: TransformerConfig, family: str) -> Disentangled:
    scheme, absolute = config.disentangled, config.absolute
    if scheme is None or (absolute is not None and absolute.offset):
        raise WeightsError(
            f"{family} has disentangled positions, and absolute ones without an offset, not "
            f"{config.positions!r}"
        )
    if config.head_bias != (config.head == "tokens") or config.head_transform != (config.head == "tokens"):
        raise WeightsError(
            f"{family} predicts tokens with head_transform and head_bias, and has them only then"
        )
    if config.head == "replaced" and not config.head_context:
        raise WeightsError(f"{family} finds replaced tokens with head_context = true")
    return scheme


def _class(config: TransformerConfig, prefix: str) -> dict[str, Any]:
    return {"architectures": [f"{prefix}{'ForMaskedLM' if config.head == 'tokens' else 'Model'}"]}


def _common_to_hf(config: TransformerConfig, scheme: Disentangled, family: str) -> dict[str, Any]:
    unlimited = scheme.max_distance == config.max_positions
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "hidden_act": activation_to_hf(config.activation, family),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions,
        "max_relative_positions": -1 if unlimited else scheme.max_distance,
        "relative_attention": True,
        "pos_att_type": list(scheme.terms),
        "position_biased_input": config.absolute is not None and config.absolute.place == "input",
        "type_vocab_size": config.type_vocab,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_eps,
        "pooler_hidden_act": config.pooler_activation,
        "pooler_hidden_size": config.d_model,
        "pooler_dropout": 0,
        "legacy": False,
        "tie_word_embeddings": True,
    }


def _common_from_hf(
    values: Mapping[str, Any], names: Collection[str], scheme: Disentangled
) -> dict[str, Any]:
    width = required(values, "hidden_size")
    for key, plain in (
        ("relative_attention", True),
        ("embedding_size", width),
        ("attention_head_size", width // max(required(values, "num_attention_heads"), 1)),
    ):
        if values.get(key, plain if key != "relative_attention" else False) != plain:
            raise WeightsError(f"config.json: {key} = {values.get(key)} is not supported; only {plain} is")
    positions: tuple[Position, ...] = (scheme,)
    if values.get("position_biased_input", True):
        positions = (scheme, Absolute())
    elif any(n.endswith("embeddings.position_embeddings.weight") for n in names):
        positions = (scheme, DECODER)
    return {
        "d_model": width,
        "n_layers": required(values, "num_hidden_layers"),
        "n_heads": required(values, "num_attention_heads"),
        "d_ff": required(values, "intermediate_size"),
        "vocab_size": required(values, "vocab_size"),
        "vocab_rows": values.get(VOCAB_ROWS),
        "activation": activation_from_hf(values.get("hidden_act", "gelu")),
        "max_positions": values.get("max_position_embeddings", 512),
        "type_vocab": values.get("type_vocab_size", 0),
        "positions": positions,
        "norm_eps": float(values.get("layer_norm_eps", 1e-7)),
        "pooler": any(n.endswith("pooler.dense.weight") for n in names),
        "pooler_activation": values.get("pooler_hidden_act", "gelu"),
        "dropout": float(values.get("hidden_dropout_prob", 0.1)),
        "attention_dropout": float(values.get("attention_probs_dropout_prob", 0.1)),
        "init_std": float(values.get("initializer_range", 0.02)),
        **_head(values, names),
    }


def _head(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A published v3 holds both heads; the one that finds replaced tokens was trained last."""
    architecture = str((values.get("architectures") or [""])[0])
    if any(n.startswith("mask_predictions.") for n in names):
        return {"head": "replaced", "head_context": True, "head_transform": False, "head_bias": False}
    if architecture.endswith("MaskedLM") or any(
        n.startswith(("lm_predictions.", "cls.predictions.")) for n in names
    ):
        return {"head": "tokens"}
    return {"head": "none", "head_transform": False, "head_bias": False}


def _terms(values: Mapping[str, Any]) -> tuple[Literal["c2p", "p2c"], ...]:
    given = values.get("pos_att_type") or ()
    terms = given.lower().split("|") if isinstance(given, str) else given
    known = [str(t).strip() for t in terms]
    if not known or any(t not in _TERMS for t in known):
        raise WeightsError(f"config.json: pos_att_type = {given!r} is not supported; p2c, c2p or both are")
    return tuple(_TERMS[t] for t in sorted(known))


def _distances(values: Mapping[str, Any]) -> int:
    given = values.get("max_relative_positions", -1)
    return int(given if given >= 1 else values.get("max_position_embeddings", 512))


def _convolution(values: Mapping[str, Any]) -> Convolution | None:
    kernel = values.get("conv_kernel_size", 0)
    if kernel <= 0:
        return None
    if values.get("conv_groups", 1) != 1:
        raise WeightsError(f"config.json: conv_groups = {values['conv_groups']} is not supported; only 1 is")
    return Convolution(kernel=kernel, activation=values.get("conv_act", "tanh"))
