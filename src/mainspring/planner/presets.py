"""Sizes that plans are checked on."""

from mainspring.models import FAMILIES
from mainspring.models.gpt2.config import gpt2

TURING_NLG = FAMILIES["turing_nlg"].presets["17b"]
"""17,178,680,064 parameters."""
TRILLION = gpt2(25600, 128, 160, vocab_rows=51200, max_positions=2048)
"""1,008,047,104,000 parameters: the shape of Narayanan et al. 2021 (arXiv 2104.04473), table 1, last row."""
_XLARGE = FAMILIES["deberta"].presets["xlarge"]
DEBERTA = _XLARGE.replace(
    d_model=1536,
    n_heads=24,
    n_layers=48,
    d_ff=6144,
    vocab_size=128100,
    positions=[{"kind": "disentangled", "buckets": 256, "shared": True}],
)
"""About 1.5 B parameters: the size of the model that passed SuperGLUE (He et al. 2020, arXiv 2006.03654,
section 5.1)."""
ZCODE = FAMILIES["zcode"].presets["m3-dense"].replace(experts={"count": 64})
"""About 10 B parameters: 64 experts in every second layer (Kim et al. 2021, arXiv 2109.10465, table 1)."""
