"""DeBERTa v1, v2 and v3: He et al. 2021 (arXiv 2006.03654), He et al. 2023 (arXiv 2111.09543)."""

from mainspring.models.deberta.config import PRESETS_V1, PRESETS_V2
from mainspring.models.deberta.layout import from_hf_v1, from_hf_v2, to_hf_v1, to_hf_v2
from mainspring.models.deberta.weights import WEIGHTS_V1, WEIGHTS_V2, upgrade

__all__ = [
    "PRESETS_V1",
    "PRESETS_V2",
    "WEIGHTS_V1",
    "WEIGHTS_V2",
    "from_hf_v1",
    "from_hf_v2",
    "to_hf_v1",
    "to_hf_v2",
    "upgrade",
]
