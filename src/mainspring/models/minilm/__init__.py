"""MiniLM: Wang et al. 2020 (arXiv 2002.10957) and 2021 (v2, arXiv 2012.15828). BERT's layout, small."""

from mainspring.models.bert import WEIGHTS, to_hf
from mainspring.models.minilm.config import PRESETS, from_hf

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf"]
