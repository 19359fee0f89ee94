"""XLM's published weight names: each kind of part of the layers is a list of its own."""

from mainspring.models.bert_like import linear_or_norm
from mainspring.models.transforms import FusedHeads, VocabularyRows
from mainspring.models.weights import Rule, WeightMap

_ATTENTION = "transformer.attentions.{i}"

WEIGHTS = WeightMap(
    rules=(
        Rule("embeddings.token.weight", "transformer.embeddings.weight", VocabularyRows()),
        Rule("embeddings.position.weight", "transformer.position_embeddings.weight"),
        Rule("embeddings.language.weight", "transformer.lang_embeddings.weight"),
        *linear_or_norm("embeddings.norm", "transformer.layer_norm_emb"),
        *(
            Rule(
                f"layers.{{i}}.attention.qkv.{kind}",
                tuple(f"{_ATTENTION}.{part}_lin.{kind}" for part in "qkv"),
                FusedHeads(),
            )
            for kind in ("weight", "bias")
        ),
        *linear_or_norm("layers.{i}.attention.out", f"{_ATTENTION}.out_lin"),
        *linear_or_norm("layers.{i}.attention_norm", "transformer.layer_norm1.{i}"),
        *linear_or_norm("layers.{i}.feed_forward.up", "transformer.ffns.{i}.lin1"),
        *linear_or_norm("layers.{i}.feed_forward.down", "transformer.ffns.{i}.lin2"),
        *linear_or_norm("layers.{i}.feed_forward_norm", "transformer.layer_norm2.{i}"),
        Rule("head.bias", "pred_layer.proj.bias", VocabularyRows()),
        Rule("head.table.weight", "pred_layer.proj.weight", VocabularyRows()),
    ),
    prefix="transformer.",
    aliases={"pred_layer.proj.weight": "transformer.embeddings.weight"},
    ignored=(r"transformer\.position_ids",),
)
"""Ours beside XLMWithLMHeadModel's."""
