"""ELECTRA: Clark et al. 2020 (arXiv 2003.10555), discriminators and generators."""

from mainspring.models.electra.config import PRESETS, electra, from_hf, generator, to_hf
from mainspring.models.electra.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "electra", "from_hf", "generator", "to_hf"]
