"""Turing-NLG: Rosset 2020 (Microsoft Research blog, 13 February). GPT-2's shape, 17 billion parameters."""

from mainspring.models.gpt2 import WEIGHTS, from_hf, to_hf
from mainspring.models.turing_nlg.config import PRESETS

__all__ = ["PRESETS", "WEIGHTS", "from_hf", "to_hf"]
