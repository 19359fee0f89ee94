"""MiniLM's sizes. Students are published as bare BERT encoders with a pooler; distillation trains them.

The multilingual ones (mMiniLM) are BERTs too, with XLM-R's tokenizer: their positions begin at 0, not at 2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.models.bert import config as layout
from mainspring.models.bert.config import bert
from mainspring.nn.config import TransformerConfig


def minilm(d_model: int, n_layers: int, **other: Any) -> TransformerConfig:
    """A MiniLM student: 12 heads as its base-size teacher has, an encoder alone."""
    alone = {"head": "none", "head_transform": False, "head_bias": False, "pooler": True}
    return bert(d_model, n_layers, 12, **{**alone, **other})


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": bert(96, 2, 12, vocab_size=8192, max_positions=256),
        "l6-h384": minilm(384, 6),
        "l12-h384": minilm(384, 12),
        "l6-h768": minilm(768, 6),
        "multilingual-l6-h384": minilm(384, 6, vocab_size=250037),
        "multilingual-l12-h384": minilm(384, 12, vocab_size=250037),
    }
)
"""Published sizes (23, 33, 67, 107 and 118 million parameters) after a tiny one with BERT's head."""


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that a MiniLM's config.json and the names of its weights describe: BERT's.

    Some published ones name no architecture; without weights of a head they are bare encoders.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    architectures = values.get("architectures") or ["BertModel"]
    return layout.from_hf({**values, "architectures": architectures}, names)
