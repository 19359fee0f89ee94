"""Around the step of any torch optimizer that holds pieces: what it needs before, what holds after.

Reduced gradients are kept in 16 bits where that is the precision. torch's optimizers want gradients in the
dtype of their parameters and get them cast for the step; one with an attribute `takes_low_gradients` set does
not.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mainspring.optim.pages import zeros

if TYPE_CHECKING:
    from mainspring.parallel.zero.engine import Flat
    from mainspring.parallel.zero.placement import Shard


# torch calls hooks of all optimizers from a table that nothing may change meanwhile, not even the garbage
# collector: one pair of hooks stays in it and asks these, in the order in which they came.
_watching: list[weakref.ref[Flat]] = []


def watch_steps(engine: Flat) -> None:
    """Tell `engine` of steps of optimizers that hold its pieces, for as long as it lives."""
    if not _watching:
        register_optimizer_step_pre_hook(_before)
        register_optimizer_step_post_hook(_after)
    _watching[:] = [*(seen for seen in _watching if seen() is not None), weakref.ref(engine)]


def _before(optimizer: Any, args: Any, kwargs: Any) -> None:
    for engine, shards in _holders(optimizer):
        engine.before_step(shards, optimizer)


def _after(optimizer: Any, args: Any, kwargs: Any) -> None:
    for engine, shards in _holders(optimizer):
        engine.after_step(shards, optimizer)


def _holders(optimizer: Any) -> list[tuple[Flat, list[Shard]]]:
    """Engines of which `optimizer` holds pieces, and the shards they are of."""
    mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    living = [engine for seen in _watching if (engine := seen()) is not None]
    held = [(e, [s for s in e.shards if any(id(piece) in mine for piece in s.pieces)]) for e in living]
    return [(engine, shards) for engine, shards in held if shards]


def cast_gradients(shards: Iterable[Shard]) -> None:
    """Give pieces gradients in their own dtype."""
    for shard in shards:
        total = shard.gradient
        if total is not None and total.dtype != shard.dtype:
            _show(shard, total.to(shard.dtype))
            continue
        for piece in shard.pieces:
            if piece.grad is not None and piece.grad.dtype != shard.dtype:
                piece.grad = piece.grad.to(shard.dtype)


def offer_copies(shards: Iterable[Shard], optimizer: Any) -> None:
    """Let an optimizer that can (it has `copies`) write 16-bit weights as it makes the new ones."""
    if not isinstance(getattr(optimizer, "copies", None), dict):
        return
    for shard in shards:
        if shard.compute_dtype != shard.dtype and shard.trainable:
            if shard.copy is None:
                shard.copy = zeros(shard.numel, shard.compute_dtype, shard.device)
            for piece, place in zip(shard.pieces, shard.places, strict=True):
                optimizer.copies[piece] = shard.copy[place]


def complete_copies(shards: Iterable[Shard], optimizer: Any) -> None:
    """Write what the optimizer left out: pieces that are another's, or that had no gradient."""
    if not isinstance(getattr(optimizer, "copies", None), dict):
        return
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    for shard in shards:
        if shard.copy is None:
            continue
        for piece, place in zip(shard.pieces, shard.places, strict=True):
            optimizer.copies.pop(piece, None)
            if id(piece) not in stepped:
                shard.copy[place] = piece.detach()
        shard.copied = True
        shard.copied_version = shard.flat._version


def _show(shard: Shard, total: Tensor) -> None:
    for piece, place in zip(shard.pieces, shard.places, strict=True):
        if piece.grad is not None:
            piece.grad = total[place]
