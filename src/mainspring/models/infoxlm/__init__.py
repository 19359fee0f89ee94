"""InfoXLM and T-ULRv2: Chi et al. 2021 (arXiv 2007.07834). XLM-R's layout; what is new is the objective."""

from mainspring.models.infoxlm.config import PRESETS
from mainspring.models.roberta.weights import WEIGHTS
from mainspring.models.xlm_r.config import from_hf, to_hf

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf"]
