"""DeBERTa's published weight names: ours beside those of Microsoft's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mainspring.models.bert_like import encoder_rules, linear_or_norm
from mainspring.models.transforms import FusedHeads, VocabularyRows
from mainspring.models.weights import Rule, WeightMap

_OURS, _THEIRS = "layers.{i}.attention", "deberta.encoder.layer.{i}.attention.self"
_OLD_HEAD, _HEAD = "cls.predictions", "lm_predictions.lm_head"
_RENAMED = {
    f"{_OLD_HEAD}.transform.dense.": f"{_HEAD}.dense.",
    f"{_OLD_HEAD}.transform.LayerNorm.": f"{_HEAD}.LayerNorm.",
    f"{_OLD_HEAD}.bias": f"{_HEAD}.bias",
    f"{_OLD_HEAD}.decoder.": f"{_HEAD}.decoder.",
}

_SHARED = (
    *(
        rule
        for rule in encoder_rules("deberta")
        if not rule.ours.startswith((_OURS + ".qkv", "norm", "pooler"))
    ),
    *linear_or_norm("pooler.dense", "pooler.dense"),
    Rule("distances.table.weight", "deberta.encoder.rel_embeddings.weight"),
    *linear_or_norm("head.transform", f"{_HEAD}.dense"),
    *linear_or_norm("head.norm", f"{_HEAD}.LayerNorm"),
    Rule("head.bias", f"{_HEAD}.bias", VocabularyRows()),
    *linear_or_norm("head.context_norm", "mask_predictions.LayerNorm"),
    *linear_or_norm("head.dense", "mask_predictions.dense"),
    *linear_or_norm("head.score", "mask_predictions.classifier"),
)
_ALIASES = {
    f"{_HEAD}.decoder.weight": "deberta.embeddings.word_embeddings.weight",
    f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
}
_IGNORED = (r"deberta\.embeddings\.position_ids", r"lm_predictions\.lm_head\..*")
"""A published v3 keeps its generator's kind of head, which was not trained, beside the discriminator's."""

WEIGHTS_V1 = WeightMap(
    rules=(
        *_SHARED,
        # Both lay the rows out [head, (query, key, value), head_dim].
        Rule(f"{_OURS}.qkv.weight", f"{_THEIRS}.in_proj.weight"),
        Rule(f"{_OURS}.qv_bias", (f"{_THEIRS}.q_bias", f"{_THEIRS}.v_bias"), FusedHeads(parts=2)),
        Rule(f"{_OURS}.disentangled.key.weight", f"{_THEIRS}.pos_proj.weight"),
        *linear_or_norm(f"{_OURS}.disentangled.query", f"{_THEIRS}.pos_q_proj"),
    ),
    prefix="deberta.",
    aliases=_ALIASES,
    ignored=_IGNORED,
)
"""Ours beside DebertaForMaskedLM's, with the position table that it drops."""

WEIGHTS_V2 = WeightMap(
    rules=(
        *_SHARED,
        *(
            Rule(
                f"{_OURS}.qkv.{kind}",
                tuple(f"{_THEIRS}.{part}_proj.{kind}" for part in ("query", "key", "value")),
                FusedHeads(),
            )
            for kind in ("weight", "bias")
        ),
        *linear_or_norm(f"{_OURS}.disentangled.key", f"{_THEIRS}.pos_key_proj"),
        *linear_or_norm(f"{_OURS}.disentangled.query", f"{_THEIRS}.pos_query_proj"),
        *linear_or_norm("distances.norm", "deberta.encoder.LayerNorm"),
        *linear_or_norm("conv", "deberta.encoder.conv.conv"),
        *linear_or_norm("conv.norm", "deberta.encoder.conv.LayerNorm"),
    ),
    prefix="deberta.",
    aliases=_ALIASES,
    ignored=_IGNORED,
)
"""Ours beside DebertaV2ForMaskedLM's, with the position table that it drops."""


def upgrade(theirs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names of the head as transformers first had them (`cls.predictions`) to Microsoft's."""
    return {_renamed(name): tensor for name, tensor in theirs.items()}


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
