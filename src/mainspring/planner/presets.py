"""Two sizes that plans are checked on."""

from __future__ import annotations

from mainspring.models import FAMILIES
from mainspring.models.gpt2.config import gpt2

TURING_NLG = FAMILIES["turing_nlg"].presets["17b"]
"""17,178,680,064 parameters."""
TRILLION = gpt2(25600, 128, 160, vocab_rows=51200, max_positions=2048)
"""1,008,047,104,000 parameters: the shape of Narayanan et al. 2021 (arXiv 2104.04473), table 1, last row."""
