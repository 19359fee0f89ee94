"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

from mainspring.models.gpt2.config import PRESETS, from_hf, to_hf
from mainspring.models.gpt2.weights import WEIGHTS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf"]
