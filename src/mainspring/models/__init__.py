"""Model families: presets of the one transformer, their weight maps, and the Hugging Face layout."""

from mainspring.models.family import Family
from mainspring.models.registry import FAMILIES, ModelConfig, resolve
from mainspring.models.weights import WeightMap

__all__ = ["FAMILIES", "Family", "ModelConfig", "WeightMap", "resolve"]
