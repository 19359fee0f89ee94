"""XLM: Conneau and Lample 2019 (arXiv 1901.07291)."""

from mainspring.models.xlm.config import PRESETS, from_hf, to_hf, xlm
from mainspring.models.xlm.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf", "xlm"]
