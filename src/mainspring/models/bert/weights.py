"""BERT's published weight names: queries, keys and values are three matrices."""

from mainspring.models.transforms import Copies, FusedHeads, VocabularyRows
from mainspring.models.weights import Rule, WeightMap

_OURS, _THEIRS = "layers.{i}", "bert.encoder.layer.{i}"
_SELF = f"{_THEIRS}.attention.self"


def _linear_or_norm(ours: str, theirs: str) -> tuple[Rule, Rule]:
    return Rule(f"{ours}.weight", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")


WEIGHTS = WeightMap(
    rules=(
        Rule("embeddings.token.weight", "bert.embeddings.word_embeddings.weight", VocabularyRows()),
        Rule("embeddings.position.weight", "bert.embeddings.position_embeddings.weight"),
        Rule("embeddings.segment.weight", "bert.embeddings.token_type_embeddings.weight"),
        *_linear_or_norm("embeddings.norm", "bert.embeddings.LayerNorm"),
        *(
            Rule(
                f"{_OURS}.attention.qkv.{kind}",
                (f"{_SELF}.query.{kind}", f"{_SELF}.key.{kind}", f"{_SELF}.value.{kind}"),
                FusedHeads(),
            )
            for kind in ("weight", "bias")
        ),
        *_linear_or_norm(f"{_OURS}.attention.out", f"{_THEIRS}.attention.output.dense"),
        *_linear_or_norm(f"{_OURS}.attention_norm", f"{_THEIRS}.attention.output.LayerNorm"),
        *_linear_or_norm(f"{_OURS}.feed_forward.up", f"{_THEIRS}.intermediate.dense"),
        *_linear_or_norm(f"{_OURS}.feed_forward.down", f"{_THEIRS}.output.dense"),
        *_linear_or_norm(f"{_OURS}.feed_forward_norm", f"{_THEIRS}.output.LayerNorm"),
        *_linear_or_norm("head.transform", "cls.predictions.transform.dense"),
        *_linear_or_norm("head.norm", "cls.predictions.transform.LayerNorm"),
        Rule("head.bias", ("cls.predictions.bias", "cls.predictions.decoder.bias"), Copies(VocabularyRows())),
        Rule("head.table.weight", "cls.predictions.decoder.weight", VocabularyRows()),
        *_linear_or_norm("pooler.dense", "bert.pooler.dense"),
        *_linear_or_norm("pooler.pair", "cls.seq_relationship"),
    ),
    prefix="bert.",
    aliases={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    },
    legacy={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    ignored=(r"bert\.embeddings\.position_ids",),
)
"""Ours beside BertForMaskedLM's and BertForPreTraining's."""
