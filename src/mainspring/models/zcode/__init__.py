"""Z-code M3: Kim et al. 2021 (arXiv 2109.10465). Its dense base; experts come with the expert layers."""

from mainspring.models.zcode.config import PRESETS, from_hf, to_hf, zcode
from mainspring.models.zcode.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf", "zcode"]
