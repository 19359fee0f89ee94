"""ELECTRA's published weight names: BERT's layers, a projection of the embeddings, two kinds of head."""

from mainspring.models.bert_like import encoder_rules, linear_or_norm
from mainspring.models.transforms import VocabularyRows
from mainspring.models.weights import Rule, WeightMap

WEIGHTS = WeightMap(
    rules=(
        *encoder_rules("electra"),
        *linear_or_norm("embeddings.project", "electra.embeddings_project"),
        *linear_or_norm("head.dense", "discriminator_predictions.dense"),
        *linear_or_norm("head.score", "discriminator_predictions.dense_prediction"),
        *linear_or_norm("head.transform", "generator_predictions.dense"),
        *linear_or_norm("head.norm", "generator_predictions.LayerNorm"),
        Rule("head.bias", "generator_lm_head.bias", VocabularyRows()),
        Rule("head.table.weight", "generator_lm_head.weight", VocabularyRows()),
    ),
    prefix="electra.",
    aliases={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=(r"electra\.embeddings\.(position_ids|token_type_ids)",),
)
"""Ours beside ElectraForPreTraining's and ElectraForMaskedLM's."""
