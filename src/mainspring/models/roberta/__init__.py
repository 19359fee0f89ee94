"""RoBERTa: Liu et al. 2019 (arXiv 1907.11692)."""

from mainspring.models.roberta.config import PRESETS, from_hf, roberta, to_hf
from mainspring.models.roberta.positions import padded_positions
from mainspring.models.roberta.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "padded_positions", "roberta", "to_hf"]
