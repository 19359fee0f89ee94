"""Block-sparse attention: published layouts, and the ways in which they are carried out."""

from mainspring.nn.sparse.config import BigBird, BSLongformer, Fixed, SlidingWindow, SparseAttention, Variable
from mainspring.nn.sparse.flex import sparse_block_mask
from mainspring.nn.sparse.gathered import gathered_attention
from mainspring.nn.sparse.layouts import layout_of
from mainspring.nn.sparse.tiles import Tiles, plan_tiles

__all__ = [
    "BSLongformer",
    "BigBird",
    "Fixed",
    "SlidingWindow",
    "SparseAttention",
    "Tiles",
    "Variable",
    "gathered_attention",
    "layout_of",
    "plan_tiles",
    "sparse_block_mask",
]
