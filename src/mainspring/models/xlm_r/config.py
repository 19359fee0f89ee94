"""XLM-R as values of the one transformer, and its Hugging Face config.json: RoBERTa's, with 250002 tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.models.roberta.config import roberta, roberta_from_hf, roberta_to_hf
from mainspring.nn.config import TransformerConfig

VOCABULARY = 250002
"""250000 pieces, and fairseq's special tokens around them."""


def xlm_r(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """An XLM-R with its masked-language-model head (Conneau et al. 2020, section 3)."""
    return roberta(d_model, n_layers, n_heads, **{"vocab_size": VOCABULARY, **other})


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": xlm_r(128, 2, 2, vocab_size=8192, max_positions=256),
        "base": xlm_r(768, 12, 12),
        "large": xlm_r(1024, 24, 16),
    }
)
"""Published sizes (278 and 560 million parameters) after a tiny one."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of an XLM-R.

    Raises:
        WeightsError: the configuration has parts that XLM-R has not; each is named.
    """
    return roberta_to_hf(config, xlm_r, "XLM-R", "XLMRoberta", "xlm-roberta")


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that an XLM-R's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    return roberta_from_hf(values, names, "XLM-R")
