"""XLM-R XL's published weight names: RoBERTa's, with the norms where a layer begins."""

from mainspring.models.roberta.weights import roberta_weights

WEIGHTS = roberta_weights(norm_first=True)
"""Ours beside XLMRobertaXLForMaskedLM's."""
