"""UniLM as values of the one transformer, and its config.json.

One network, and the ranks of its tokens say whether it reads in both directions, from left to right, or from
a source to a target. v1 is a BERT with six segments, one for each such use. v2 adds a bias of distance to the
attention's scores, the layers' in common.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.models import bert
from mainspring.models.bert.config import bert as shape
from mainspring.models.hf import required
from mainspring.nn.config import Absolute, T5Bias, TransformerConfig

SEGMENTS = MappingProxyType({"left_to_right": 2, "right_to_left": 3, "source": 4, "target": 5})
"""Segments of v1's pre-training beyond BERT's pair (0, 1); fine-tuning has 0 for the source, 1 the target."""


def unilm1(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A UniLM v1 (Dong et al. 2019, section 2), of BERT's cased vocabulary."""
    return shape(d_model, n_layers, n_heads, **{"vocab_size": 28996, "type_vocab": 6, **other})


def unilm2(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """A UniLM v2 (Bao et al. 2020, section 3.1): 32 buckets of distance, up to 128."""
    return shape(d_model, n_layers, n_heads, **{"positions": (Absolute(), T5Bias()), **other})


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": unilm2(128, 2, 2, vocab_size=8192, max_positions=256),
        "tiny-v1": unilm1(128, 2, 2, vocab_size=8192, max_positions=256),
        "v1-base": unilm1(768, 12, 12),
        "v1-large": unilm1(1024, 24, 16),
        "v2-base": unilm2(768, 12, 12),
        "v2-large": unilm2(1024, 24, 16),
    }
)
"""Published sizes (110 and 340 million parameters) after tiny ones of v2 and v1."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of a UniLM: of a BERT for v1, with the fields of s2s-ft for v2.

    Raises:
        WeightsError: the configuration has parts that UniLM has not; each is named.
    """
    bias = config.t5_bias
    plain = tuple(p for p in config.positions if p is not bias)
    values = bert.to_hf(config.model_copy(update={"positions": plain}))
    if bias is None:
        return values
    bert.to_hf(config.model_copy(update={"positions": (*plain, *_not_ours(bias))}))
    return {
        **values,
        "architectures": ["UnilmForSeq2Seq"],
        "model_type": "unilm",
        "rel_pos_bins": bias.buckets,
        "max_rel_pos": bias.max_distance,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that a UniLM's config.json and the names of its weights describe.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    config = bert.from_hf(values, names)
    if not values.get("rel_pos_bins"):
        return config
    bias = T5Bias(buckets=required(values, "rel_pos_bins"), max_distance=required(values, "max_rel_pos"))
    return config.model_copy(update={"positions": (*config.positions, bias)})


def _not_ours(bias: T5Bias) -> tuple[T5Bias, ...]:
    """The bias if it is of a kind that UniLM has not, for the message that names it."""
    return () if bias.bidirectional and bias.gate is None else (bias,)
