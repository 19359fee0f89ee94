"""How much a loss would change without a head, or without a column of a feed-forward.

Michel et al. 2019 (arXiv 1905.10650), section 4.1: with a factor of 1 on a part's output y, the expected size
of the loss's derivative by that factor, E_x |y . dL/dy|. Molchanov et al. 2017 (arXiv 1611.06440) have the
same for single units.

Legend: H heads, E head width, F columns of the feed-forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.compress.measure import Measure
from mainspring.nn.block import Block
from mainspring.nn.feed_forward import FeedForward
from mainspring.nn.transformer import Transformer


@dataclass(frozen=True)
class Importance:
    """Of the parts of each layer, in the order of the layers."""

    heads: list[Tensor]
    """fp32 [H] each."""
    columns: list[Tensor]
    """fp32 [F] each; empty where a layer has experts."""


def importance(
    model: Transformer, measure: Measure, progress: Callable[[int, int], None] = lambda done, total: None
) -> Importance:
    """Importance of heads and columns, over the measure's text.

    Args:
        model: of one stack, in evaluation; left as it was.
        measure: of its loss.
        progress: is told batches done and their total.
    """
    blocks = [block for block in model.blocks() if isinstance(block, Block)]
    heads = [torch.zeros(b.attention.heads) for b in blocks]
    columns = [
        torch.zeros(b.feed_forward.down.in_features if isinstance(b.feed_forward, FeedForward) else 0)
        for b in blocks
    ]
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        # A leaf of its own, so that layers need no gradients of their weights.
        y: Tensor = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
        y.retain_grad()
        outputs[module] = y
        return (y,)

    watched = [b.attention.out for b in blocks]
    watched += [b.feed_forward.down for b in blocks if isinstance(b.feed_forward, FeedForward)]
    handles = [module.register_forward_pre_hook(keep) for module in watched]
    texts = 0
    try:
        for index, view in enumerate(measure.views):
            with torch.enable_grad():
                measure.graded(model, index).backward()  # type: ignore[no-untyped-call]
            for place, block in enumerate(blocks):
                heads[place] += _by_text(outputs[block.attention.out], block.attention.heads)
                if isinstance(block.feed_forward, FeedForward):
                    columns[place] += _by_text(outputs[block.feed_forward.down], len(columns[place]))
            texts += len(view.ids)
            outputs.clear()
            model.zero_grad(set_to_none=True)
            progress(index + 1, len(measure.views))
    finally:
        for handle in handles:
            handle.remove()
    return Importance([h / texts for h in heads], [c / texts for c in columns])


def _by_text(y: Tensor, parts: int) -> Tensor:
    """Sum over texts of |y . dL/dy| of each of equal parts: y [B, T, parts * width] -> fp32 [parts]."""
    assert y.grad is not None
    product = (y.detach() * y.grad).float().view(*y.shape[:2], parts, -1)
    return product.sum((1, 3)).abs().sum(0).cpu()
