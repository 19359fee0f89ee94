"""XLM-E and T-ULRv5: Chi et al. 2022 (arXiv 2106.16138)."""

from mainspring.models.xlm_e.config import PRESETS, from_hf, generator, to_hf, xlm_e
from mainspring.models.xlm_e.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "generator", "to_hf", "xlm_e"]
