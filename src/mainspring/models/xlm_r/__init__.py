"""XLM-R: Conneau et al. 2020 (arXiv 1911.02116). RoBERTa's layout with a vocabulary of 100 languages."""

from mainspring.models.roberta.weights import WEIGHTS
from mainspring.models.xlm_r.config import PRESETS, from_hf, to_hf, xlm_r

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf", "xlm_r"]
