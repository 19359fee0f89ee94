"""BERT: Devlin et al. 2019 (arXiv 1810.04805)."""

from mainspring.models.bert.config import PRESETS, from_hf, to_hf
from mainspring.models.bert.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf"]
