"""XLM as values of the one transformer, and its Hugging Face config.json.

Norms after each residual sum, an embedding for the language of each token (`TokenBatch.lang`), and a head
without a transform. Checkpoints store the table of positions whether it was learned or drawn as waves: it is
read as a table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.errors import WeightsError
from mainspring.models.bert_like import is_bare
from mainspring.models.hf import VOCAB_ROWS, differences, required
from mainspring.nn.config import TransformerConfig


def xlm(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """An XLM with its masked-language-model head (Conneau and Lample 2019, section 5.1)."""
    values: dict[str, Any] = {
        "d_ff": 4 * d_model,
        "activation": "gelu",
        "vocab_size": 95000,
        "max_positions": 512,
        "embed_norm": True,
        "norm_place": "post",
        "norm_eps": 1e-12,
        "head_bias": True,
        "scale_residual": False,
        **other,
    }
    return TransformerConfig(d_model=d_model, n_layers=n_layers, n_heads=n_heads, **values)


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": xlm(128, 2, 2, vocab_size=8192, max_positions=256, languages=4),
        "xnli15": xlm(1024, 12, 8, languages=15),
        "100": xlm(1280, 16, 16, vocab_size=200000),
    }
)
"""XLM-15 (with translation pairs; 250 million parameters) and XLM-100 (570 million) after a tiny one."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of an XLM.

    Raises:
        WeightsError: the configuration has parts that XLM has not; each is named.
    """
    shape = xlm(config.d_model, config.depth, config.n_heads)
    free = (
        "activation",
        "vocab_size",
        "vocab_rows",
        "max_positions",
        "languages",
        "norm_eps",
        "head",
        "head_bias",
        "tied",
        "dropout",
        "attention_dropout",
        "init_std",
        "scale_residual",
    )
    differences(config, shape, free, "XLM")
    if config.activation not in ("gelu", "relu") or config.languages == 1:
        raise WeightsError(
            f"XLM has gelu or relu, and no language embeddings or at least 2, not activation = "
            f"{config.activation!r} and languages = {config.languages}"
        )
    return {
        "architectures": ["XLMModel" if config.head == "none" else "XLMWithLMHeadModel"],
        "model_type": "xlm",
        "vocab_size": config.vocab_size,
        "emb_dim": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "gelu_activation": config.activation == "gelu",
        "sinusoidal_embeddings": False,
        "causal": False,
        "asm": False,
        "n_langs": max(config.languages, 1),
        "use_lang_emb": config.languages > 0,
        "max_position_embeddings": config.max_positions,
        "layer_norm_eps": config.norm_eps,
        "init_std": config.init_std,
        "embed_init_std": config.init_std,
        "is_encoder": True,
        "pad_token_id": 2,
        "tie_word_embeddings": config.tied,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that an XLM's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    for key, plain in (("causal", False), ("asm", False), ("is_encoder", True)):
        if values.get(key, plain) != plain:
            raise WeightsError(f"config.json: {key} = {values[key]} is not supported; only {plain} is")
    head = "none" if is_bare(values, names, "pred_layer.") else "tokens"
    languages = values.get("n_langs", 1) if values.get("use_lang_emb", True) else 0
    words = "n_words" if "vocab_size" not in values else "vocab_size"
    return xlm(
        required(values, "emb_dim"),
        required(values, "n_layers"),
        required(values, "n_heads"),
        vocab_size=required(values, words),
        vocab_rows=values.get(VOCAB_ROWS),
        activation="gelu" if values.get("gelu_activation", True) else "relu",
        max_positions=values.get("max_position_embeddings", 512),
        languages=languages if languages > 1 else 0,
        norm_eps=float(values.get("layer_norm_eps", 1e-12)),
        head=head,
        head_bias=head == "tokens",
        tied=values.get("tie_word_embeddings", True),
        dropout=float(values.get("dropout", 0.1)),
        attention_dropout=float(values.get("attention_dropout", 0.1)),
        init_std=float(values.get("init_std", 0.02)),
    )
