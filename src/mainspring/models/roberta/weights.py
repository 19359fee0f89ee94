"""RoBERTa's published weight names: BERT's layers, and a head of its own."""

from mainspring.models.bert_like import encoder_rules, linear_or_norm
from mainspring.models.transforms import Copies, VocabularyRows
from mainspring.models.weights import Rule, WeightMap


def roberta_weights(*extra: Rule, norm_first: bool = False) -> WeightMap:
    """The map of a family with RoBERTa's names; `extra` rules are for what only it has."""
    return WeightMap(
        rules=(
            *encoder_rules("roberta", norm_first=norm_first),
            *linear_or_norm("head.transform", "lm_head.dense"),
            *linear_or_norm("head.norm", "lm_head.layer_norm"),
            Rule("head.bias", ("lm_head.bias", "lm_head.decoder.bias"), Copies(VocabularyRows())),
            Rule("head.table.weight", "lm_head.decoder.weight", VocabularyRows()),
            *extra,
        ),
        prefix="roberta.",
        aliases={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
            "lm_head.bias": "lm_head.decoder.bias",
        },
        ignored=(r"roberta\.embeddings\.(position_ids|token_type_ids)",),
    )


WEIGHTS = roberta_weights()
"""Ours beside RobertaForMaskedLM's, which are also XLMRobertaForMaskedLM's."""
