"""Block-sparse attention for FlexAttention: its kernels for CUDA, and for CPU where no gradient is wanted.

FlexAttention has no backward on CPU, and wants to be compiled, which takes seconds; there `gathered` computes
the same. Tiles of 128 are the ones its CUDA kernels are fastest with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch, lengthened
from mainspring.nn.masks import flex_rule
from mainspring.nn.sparse.tiles import tile_status

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

TILE = 128


@cache
def compiled_flex() -> Callable[..., Any]:
    """FlexAttention's kernel; torch compiles it for each new kind of mask and shape."""
    from torch.nn.attention.flex_attention import flex_attention  # loads a compiler

    return torch.compile(flex_attention, dynamic=False)


def sparse_block_mask(batch: TokenBatch, layout: Tensor, block: int, *, tile: int = TILE) -> BlockMask:
    """The layout and the tokens' rule as a mask for FlexAttention.

    Args:
        batch: B rows of T tokens; no position is beyond the layout.
        layout: bool [H or 1, N, N].
        block: positions of a block.
        tile: queries and keys of a tile of the mask.

    Returns:
        For B rows, H heads (or any number where all have one layout), T queries and keys.
    """
    from torch.nn.attention.flex_attention import BlockMask  # loads a compiler

    length = batch.ids.shape[1]
    longer = lengthened(batch, -length % tile)
    layout = layout.to(batch.ids.device)
    status, _ = tile_status(longer, layout, longer.pos // block, tile, tile)
    rule, blocks = flex_rule(batch), batch.pos // block
    one = layout.shape[0] == 1

    def both(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        there = layout[0 if one else h, blocks[b, i], blocks[b, j]]
        return rule(b, h, i, j) & there

    part, whole = _listed(status.part), _listed(status.whole)
    return BlockMask.from_kv_blocks(
        *part, *whole, BLOCK_SIZE=tile, mask_mod=both, seq_lengths=(length, length)
    )


def _listed(seen: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles of keys each tile of queries sees, int32 [B, H, p], and which, before the others, int32
    [B, H, p, k]."""
    order = seen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return seen.sum(-1, dtype=torch.int32), order.to(torch.int32)
