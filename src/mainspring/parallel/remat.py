"""Rematerialisation: keep a block's input for backward and compute the rest again (Chen et al. 2016,
1604.06174)."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from mainspring.parallel.blocks import find_blocks


def set_remat(model: nn.Module, on: bool) -> None:
    """Turn rematerialisation of the blocks of `model` on or off.

    A model with an attribute `remat` does it itself. For any other, the forward of each of its blocks is run
    under `torch.utils.checkpoint` while gradients are recorded; names of modules and parameters stay as they
    are.
    """
    if hasattr(model, "remat"):
        setattr(model, "remat", on)  # noqa: B010 - nn.Module types attributes as tensors or modules
        return
    for block in find_blocks(model):
        wrapped = isinstance(block.__dict__.get("forward"), _Recomputed)
        if on and not wrapped:
            block.forward = _Recomputed(block)
        elif not on and wrapped:
            del block.forward


class _Recomputed:
    """Stands in for a block's `forward`."""

    def __init__(self, block: nn.Module) -> None:
        self.forward = block.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
