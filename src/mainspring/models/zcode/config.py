"""Z-code M3's dense base as values of the one transformer, and the config.json of M2M-100.

An encoder of 24 layers beside a decoder of 12, norms before each sub-layer. Published are the depths and the
size (0.7 billion); the width of 1024 and 128 thousand tokens are recalled and agree with it. The public model
nearest to it is NLLB/M2M-100, whose layout is used: waves for positions and embeddings multiplied by the
square root of the width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.errors import WeightsError
from mainspring.models.bert_like import offset_from_hf, offset_to_hf
from mainspring.models.hf import VOCAB_ROWS, activation_from_hf, activation_to_hf, differences, required
from mainspring.nn.config import Sinusoidal, TransformerConfig

OFFSET = 2
"""Steps of the wave before position 0: fairseq's padding index, plus one."""


def zcode(
    d_model: int, encoder_layers: int, decoder_layers: int, n_heads: int, **other: Any
) -> TransformerConfig:
    """A dense encoder-decoder of Z-code's shape (Kim et al. 2021, section 5)."""
    values: dict[str, Any] = {
        "d_ff": 4 * d_model,
        "activation": "relu",
        "vocab_size": 128000,
        "max_positions": 1024,
        "positions": (Sinusoidal(offset=OFFSET),),
        "scale_embeddings": True,
        "scale_residual": False,
        **other,
    }
    return TransformerConfig(
        d_model=d_model,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        n_heads=n_heads,
        **values,
    )


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {"tiny": zcode(128, 2, 1, 2, vocab_size=8192, max_positions=256), "m3-dense": zcode(1024, 24, 12, 16)}
)
"""The dense base (0.64 billion parameters; published as 0.7) after a tiny one."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of an M2M-100 of this shape.

    Raises:
        WeightsError: the configuration has parts that M2M-100 has not; each is named.
    """
    if not config.is_encoder_decoder:
        raise WeightsError(f"Z-code has an encoder and a decoder, not n_layers = {config.n_layers} alone")
    pad = offset_to_hf(config, "Z-code")
    shape = zcode(
        config.d_model,
        config.encoder_layers,
        config.decoder_layers,
        config.n_heads,
        positions=(Sinusoidal(offset=pad + 1),),
    )
    free = (
        "d_ff",
        "activation",
        "vocab_size",
        "vocab_rows",
        "max_positions",
        "scale_embeddings",
        "dropout",
        "attention_dropout",
        "init_std",
        "scale_residual",
    )
    differences(config, shape, free, "Z-code")
    return {
        "architectures": ["M2M100ForConditionalGeneration"],
        "model_type": "m2m_100",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.n_heads,
        "decoder_attention_heads": config.n_heads,
        "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_ff,
        "activation_function": activation_to_hf(config.activation, "Z-code"),
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "max_position_embeddings": config.max_positions,
        "init_std": config.init_std,
        "scale_embedding": config.scale_embeddings,
        "pad_token_id": pad,
        "decoder_start_token_id": 2,
        "tie_word_embeddings": config.tied,
        "use_cache": True,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that an M2M-100's config.json describes.

    Raises:
        WeightsError: encoder and decoder differ in width or heads, or have tables of their own.
    """
    if not values.get("tie_word_embeddings", True):
        raise WeightsError(
            "config.json: tie_word_embeddings = false: encoder, decoder and head must share a table"
        )
    for field in ("attention_heads", "ffn_dim"):
        both = [required(values, f"{side}_{field}") for side in ("encoder", "decoder")]
        if both[0] != both[1]:
            raise WeightsError(
                f"config.json: encoder_{field} = {both[0]} and decoder_{field} = {both[1]}: only equal "
                f"ones are supported"
            )
    return zcode(
        required(values, "d_model"),
        required(values, "encoder_layers"),
        required(values, "decoder_layers"),
        required(values, "encoder_attention_heads"),
        d_ff=required(values, "encoder_ffn_dim"),
        vocab_size=required(values, "vocab_size"),
        vocab_rows=values.get(VOCAB_ROWS),
        activation=activation_from_hf(values.get("activation_function", "relu")),
        max_positions=values.get("max_position_embeddings", 1024),
        positions=(Sinusoidal(offset=offset_from_hf(values)),),
        scale_embeddings=values.get("scale_embedding", True),
        dropout=float(values.get("dropout", 0.1)),
        attention_dropout=float(values.get("attention_dropout", 0.1)),
        init_std=float(values.get("init_std", 0.02)),
    )
