"""The one transformer and its parts: mask algebra, positions, attention, layers, cache, initialisation."""

from mainspring.nn.cache import KVCache
from mainspring.nn.config import Absolute, Disentangled, Rotary, T5Bias, TransformerConfig
from mainspring.nn.init import initialize
from mainspring.nn.masks import allow, flex_block_mask, sdpa_mask
from mainspring.nn.transformer import Output, Transformer

__all__ = [
    "Absolute",
    "Disentangled",
    "KVCache",
    "Output",
    "Rotary",
    "T5Bias",
    "Transformer",
    "TransformerConfig",
    "allow",
    "flex_block_mask",
    "initialize",
    "sdpa_mask",
]
