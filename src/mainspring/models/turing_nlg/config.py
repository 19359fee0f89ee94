"""Turing-NLG's size. Its checkpoints are Megatron's, cut over four ranks: see `mainspring.models.megatron`.

The shape is what DeepSpeed's loader documents of this very model: 78 layers, width 4256, 28 heads, 1024
positions, and GPT-2's 50257 tokens in a table of 50688 rows (a multiple of 128 for each of 4 ranks).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mainspring.models.gpt2.config import gpt2
from mainspring.nn.config import TransformerConfig

PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {"tiny": gpt2(128, 4, 4, vocab_size=8192, max_positions=256), "17b": gpt2(4256, 78, 28, vocab_rows=50688)}
)
"""The published model (17,178,680,064 parameters with the rows that pad its vocabulary) after a tiny one."""
