"""UniLM: Dong et al. 2019 (arXiv 1905.03197) and v2, Bao et al. 2020 (arXiv 2002.12804)."""

from mainspring.models.unilm.config import PRESETS, from_hf, to_hf, unilm1, unilm2
from mainspring.models.unilm.weights import WEIGHTS, upgrade

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf", "unilm1", "unilm2", "upgrade"]
