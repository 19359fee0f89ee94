"""XLM-E as values of the one transformer, and a config.json of its own.

XLM-R's layers with a gated bias of distance, and ELECTRA's pair of a generator and a discriminator, over
monolingual text and translation pairs. transformers has no class for it. What its authors published of the
sizes is in the paper; the positions' table beside the bias, and T-ULRv5's shape (48 layers, width 1536, 500
thousand pieces), are from second-hand accounts.
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
from mainspring.models.hf import differences, required
from mainspring.models.roberta.config import OFFSET
from mainspring.models.xlm_r.config import xlm_r
from mainspring.nn.config import Absolute, T5Bias, TransformerConfig


def xlm_e(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """An XLM-E discriminator (Chi et al. 2022, section 3)."""
    values: dict[str, Any] = {
        "positions": (Absolute(offset=OFFSET), T5Bias(gate="input")),
        "head": "replaced",
        "head_transform": False,
        "head_bias": False,
        **other,
    }
    return xlm_r(d_model, n_layers, n_heads, **values)


def generator(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """An XLM-E generator: as wide as its discriminator, with fewer layers, and XLM-R's head."""
    head = {"head": "tokens", "head_transform": True, "head_bias": True}
    return xlm_e(d_model, n_layers, n_heads, **{**head, **other})


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": xlm_e(128, 2, 2, vocab_size=8192, max_positions=256),
        "tiny-generator": generator(128, 1, 2, vocab_size=8192, max_positions=256),
        "base": xlm_e(768, 12, 12),
        "base-generator": generator(768, 4, 12),
        "t-ulrv5": xlm_e(1536, 48, 24, vocab_size=500002),
    }
)
"""The paper's base size with its generator, and T-ULRv5 (published as 2.2 billion), after tiny ones."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of an XLM-E.

    Raises:
        WeightsError: the configuration has parts that XLM-E has not; each is named.
    """
    bias, pad = config.t5_bias, offset_to_hf(config, "XLM-E")
    make = generator if config.head == "tokens" else xlm_e
    shape = make(
        config.d_model,
        config.depth,
        config.n_heads,
        positions=(
            Absolute(offset=pad + 1),
            (bias or T5Bias(gate="input")).model_copy(update={"bidirectional": True}),
        ),
    )
    differences(config, shape, FREE, "XLM-E")
    require_gelu(config, "XLM-E")
    assert bias is not None
    classes = {"none": "XLMEModel", "replaced": "XLMEForPreTraining", "tokens": "XLMEForMaskedLM"}
    return {
        "architectures": [classes[config.head]],
        "model_type": "xlm-e",
        **common_to_hf(config, "XLM-E"),
        "rel_pos_bins": bias.buckets,
        "max_rel_pos": bias.max_distance,
        "rel_pos_gate": bias.gate,
        "pad_token_id": pad,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that an XLM-E's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    offset = offset_from_hf(values)
    fields = common_from_hf({"layer_norm_eps": 1e-5, **values}, names, offset=offset)
    bias = T5Bias(
        buckets=required(values, "rel_pos_bins"),
        max_distance=required(values, "max_rel_pos"),
        gate=values.get("rel_pos_gate", "input"),
    )
    fields["positions"] = (Absolute(offset=offset), bias)
    architecture = str((values.get("architectures") or [""])[0])
    if architecture.endswith("MaskedLM") or any(n.startswith("lm_head.") for n in names):
        config = generator(**fields)
        require_gelu(config, "XLM-E")
        return config
    bare = is_bare(values, names, "discriminator_predictions.")
    return xlm_e(**fields, head="none" if bare else "replaced")
