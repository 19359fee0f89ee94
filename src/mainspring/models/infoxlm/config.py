"""InfoXLM's sizes: XLM-R's, from whose checkpoints it is trained on. T-ULRv2 is of the large one's size."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mainspring.models.xlm_r.config import xlm_r
from mainspring.nn.config import TransformerConfig

PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": xlm_r(128, 4, 2, vocab_size=8192, max_positions=256),
        "base": xlm_r(768, 12, 12),
        "large": xlm_r(1024, 24, 16),
        "t-ulrv2": xlm_r(1024, 24, 16),
    }
)
"""Published sizes (278 and 560 million parameters) after a tiny one."""
