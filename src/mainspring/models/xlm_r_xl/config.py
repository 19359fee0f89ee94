"""XLM-R XL as values of the one transformer, and its Hugging Face config.json.

Norms stand before each sub-layer and once more at the end; the embeddings have none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.models.roberta.config import roberta_from_hf, roberta_to_hf
from mainspring.models.xlm_r.config import xlm_r
from mainspring.nn.config import TransformerConfig

_NORMS: Mapping[str, Any] = MappingProxyType({"embed_norm": False, "norm_place": "pre"})


def xlm_r_xl(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """An XLM-R XL with its masked-language-model head (Goyal et al. 2021, table 1)."""
    return xlm_r(d_model, n_layers, n_heads, **{"vocab_size": 250880, **_NORMS, **other})


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": xlm_r_xl(128, 2, 2, vocab_size=8192, max_positions=256),
        "xl": xlm_r_xl(2560, 36, 32),
        "xxl": xlm_r_xl(4096, 48, 32),
    }
)
"""Published sizes (3.5 and 10.7 billion parameters) after a tiny one."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of an XLM-R XL.

    Raises:
        WeightsError: the configuration has parts that XLM-R XL has not; each is named.
    """
    return roberta_to_hf(config, xlm_r_xl, "XLM-R XL", "XLMRobertaXL", "xlm-roberta-xl")


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that an XLM-R XL's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    return roberta_from_hf(values, names, "XLM-R XL", **_NORMS)
