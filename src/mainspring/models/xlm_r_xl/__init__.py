"""XLM-R XL and XXL: Goyal et al. 2021 (arXiv 2105.00572). XLM-R with norms before each sub-layer."""

from mainspring.models.xlm_r_xl.config import PRESETS, from_hf, to_hf, xlm_r_xl
from mainspring.models.xlm_r_xl.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf", "xlm_r_xl"]
