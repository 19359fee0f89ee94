"""Z-code M3, dense and with experts: Kim et al. 2021 (arXiv 2109.10465)."""

from mainspring.models.zcode import experts
from mainspring.models.zcode.config import PRESETS, from_hf, to_hf, zcode
from mainspring.models.zcode.weights import WEIGHTS, WEIGHTS_OF_EXPERTS

__all__ = ["PRESETS", "WEIGHTS", "WEIGHTS_OF_EXPERTS", "experts", "from_hf", "to_hf", "zcode"]
