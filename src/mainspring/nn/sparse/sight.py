"""Who sees whom under a layout: by tiles where rows attend to themselves, else as a mask of all pairs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from mainspring.data.batch import TokenBatch
from mainspring.nn.masks import Facts, allow
from mainspring.nn.sparse.flex import compiled_flex, sparse_block_mask
from mainspring.nn.sparse.gathered import gathered_attention
from mainspring.nn.sparse.tiles import Tiles, plan_tiles

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True, slots=True)
class SparseSight:
    """What rows of tokens see of themselves; worked out when the first layer attends, and used by all.

    The layout is of the heads that are here.
    """

    batch: TokenBatch
    layout: Tensor
    block: int
    facts: Facts
    heads: tuple[int, int] | None = None
    """Only these heads of the layout's attend, from the first to before the second."""
    _made: dict[str, Any] = field(default_factory=dict)

    def of_heads(self, start: int, stop: int) -> SparseSight:
        """For some of the heads."""
        return replace(self, heads=(start, stop), _made={})

    @property
    def tiles(self) -> Tiles:
        """What is computed of the scores."""
        if "tiles" not in self._made:
            self._made["tiles"] = plan_tiles(self.batch, self._layout(), self.block, self.facts)
        tiles: Tiles = self._made["tiles"]
        return tiles

    @property
    def block_mask(self) -> BlockMask:
        """The same for FlexAttention."""
        if "mask" not in self._made:
            self._made["mask"] = sparse_block_mask(self.batch, self._layout(), self.block)
        mask: BlockMask = self._made["mask"]
        return mask

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout: float) -> Tensor:
        """softmax(q k^T * scale) v over what is seen, [B, H, T, E]: by FlexAttention on CUDA, else (and with
        dropout, which that lacks) by gathered tiles."""
        if q.device.type == "cuda" and not dropout:
            mixed: Tensor = compiled_flex()(q, k, v, block_mask=self.block_mask, scale=scale)
            return mixed
        return gathered_attention(q, k, v, self.tiles, scale, dropout)

    def _layout(self) -> Tensor:
        layout = self.layout.to(self.batch.ids.device)
        if self.heads is None or layout.shape[0] == 1:
            return layout
        return layout[self.heads[0] : self.heads[1]]


def sparse_mask(queries: TokenBatch, keys: TokenBatch | None, layout: Tensor, block: int) -> Tensor:
    """The rule written out for every pair: `allow` and the layout.

    Args:
        queries: B rows of Tq tokens.
        keys: B rows of Tk tokens (None: the queries themselves).
        layout: bool [H or 1, N, N].
        block: positions of a block.

    Returns:
        bool [B, H or 1, Tq, Tk].
    """
    others = queries if keys is None else keys
    layout = layout.to(queries.ids.device)
    of_queries, of_keys = queries.pos // block, others.pos // block
    there = layout[:, of_queries[:, :, None], of_keys[:, None, :]].transpose(0, 1)
    return allow(queries, keys) & there


def has_no_data(batch: TokenBatch) -> bool:
    """Whether a batch's values are not known: on meta, fake, or of a function that is being compiled."""
    return torch.compiler.is_compiling() or batch.ids.is_meta or isinstance(batch.ids, FakeTensor)
