"""Where the fp32 masters of a shard live: here, beside the computation; tiers for offloading bring others.

The engine asks a `Placement` at five moments and otherwise does not touch masters:

    adopt         once for each shard, when it has its first values (and again when they were loaded)
    before_gather each time a unit's parameters are about to be joined: give them in the dtype of computation
    keep          when a gradient has been reduced: say where it stays until the step
    before_step / after_step   around the step of any torch optimizer that holds pieces of the model

An optimizer of a tier's own may step shard by shard instead (`Shard.attach`, update, `Shard.detach`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from mainspring.nn.span import Span, span_of
from mainspring.parallel.zero.optimizers import complete_copies, offer_copies


@dataclass(eq=False)
class Shard:
    """This rank's part of the flat row of one unit: what optimizers step and checkpoints store.

    A unit whose parameters differ in dtype or in whether they are trained has several.
    """

    name: str
    """Unique in the model, equal on every rank ("" for the root's, "layers.3", "layers.3+1" for a second)."""
    unit: str
    """Name of the unit's module."""
    names: list[str]
    """Name of each parameter; of a tied one its first."""
    pieces: list[nn.Parameter]
    """For each parameter the piece that lies here: 1-D, a view of `flat`, with a `span`; maybe of 0 elements.

    The objects stay the same for the life of the model; optimizers hold them.
    """
    places: list[slice]
    """Where in `flat` each piece lies."""
    start: int
    """Where in the unit's row this part begins."""
    numel: int
    """Elements of this part, with its padding; `flat.numel()`."""
    trainable: bool
    """Whether an optimizer may change it; the others are sharded all the same."""
    dtype: torch.dtype
    """Of the masters: fp32 where the precision is a 16-bit one, else the parameters' own."""
    compute_dtype: torch.dtype
    """Of the parameters in forward and backward."""
    device: torch.device
    """Where the model computes (masters may be elsewhere)."""
    flat: Tensor = field(default_factory=lambda: torch.empty(0))
    """The masters [numel]; a single element repeated while they are away (`detach`)."""
    copy: Tensor | None = None
    """[numel], in `compute_dtype`, on `device`: where an optimizer may write the new parameters as it makes
    them. None where there is no such place: masters are then cast when they are gathered."""
    copied: bool = False
    """Set by an optimizer that has filled `copy`; cleared by the engine where masters may have changed."""
    copied_version: int = -1
    """Version of `flat` that `copy` was made of; -1 where that is not to be compared."""

    @property
    def spans(self) -> list[Span]:
        """Which part of its parameter each piece is."""
        found = [span_of(piece) for piece in self.pieces]
        assert all(span is not None for span in found)
        return [span for span in found if span is not None]

    @property
    def attached(self) -> bool:
        """Whether `flat` holds the masters."""
        return self.numel == 0 or self.flat.stride(0) == 1

    @property
    def gradient(self) -> Tensor | None:
        """The reduced gradient [numel], of which the pieces' `grad` are views; None where there is none, or
        where a piece has another.

        A piece whose parameter no rank used has a `grad` of None; its part here is 0.
        """
        bases = {id(base): base for p in self.pieces if p.grad is not None for base in [p.grad._base]}
        if len(bases) != 1:
            return None
        (base,) = bases.values()
        return base if base is not None and base.shape == (self.numel,) else None

    @torch.no_grad()
    def attach(self, flat: Tensor) -> None:
        """Make `flat` [numel] the storage of the masters: the pieces become views of it, wherever it is."""
        assert flat.shape == (self.numel,) and flat.dtype == self.dtype
        self.flat = flat
        for piece, place in zip(self.pieces, self.places, strict=True):
            piece.data = flat[place]

    def detach(self) -> None:
        """Let go of the storage of the masters; the pieces keep their shapes and objects, and no values."""
        # Not a number, so that whoever reads them sees it; and a repeated element refuses writes.
        nothing = float("nan") if self.dtype.is_floating_point else 0
        self.attach(torch.full((1,), nothing, dtype=self.dtype).expand(self.numel))


class Placement(Protocol):
    """Where masters live. One object serves all shards of a model, in the same order every step.

    Attributes:
        resident: whether masters stay where they were made, beside the computation. Others are adopted one by
            one while a model is filled, so that the whole is never in memory.
    """

    @property
    def resident(self) -> bool: ...

    def adopt(self, shard: Shard) -> None:
        """`shard.flat` has its values (at `apply`, `materialize`, after loading): take them to their place.

        Shards of a model born on meta are adopted one by one as they are filled, so a tier that writes them
        away never sees the whole in memory.
        """

    def before_gather(self, shard: Shard, out: Tensor) -> None:
        """Fill `out` [numel], in `shard.compute_dtype` on `shard.device`, with the present masters.

        `out` may be `shard.copy`. The engine does not ask where the optimizer has done so (`shard.copied`).
        """

    def prefetch(self, shard: Shard) -> None:
        """`before_gather` of this shard will come soon: a read may start."""

    def keep(self, shard: Shard, gradient: Tensor, before: Tensor | None) -> Tensor:
        """Give a reduced `gradient` [numel], in `compute_dtype`, the place where it stays until the step.

        Args:
            gradient: on `shard.device`; not used by the engine afterwards.
            before: what an earlier micro-batch of this step left (returned by the last call); None for the
                first. It may be added to in place.

        Returns:
            The sum so far, [numel], on the device of the masters: the pieces' `grad` become views of it.
        """

    def before_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """`optimizer` is about to step pieces of these shards; called before gradients are cast for it.

        A tier may carry out the step here, a stretch of a shard at a time, and set pieces' `grad` to None,
        so that the optimizer finds nothing left to do.
        """

    def after_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """It has."""

    def settle(self) -> None:
        """Finish what is under way; masters in memory may have been changed by hand."""

    def opened(
        self, shard: Shard, optimizer: torch.optim.Optimizer | None = None, *, write: bool = True
    ) -> AbstractContextManager[None]:
        """Within it `shard.flat` holds the masters, and `optimizer.state` the states of its pieces, in memory
        (for a checkpoint, or to gather them whole); on leaving, changes are kept if `write`."""


def added_up(gradient: Tensor, before: Tensor | None) -> Tensor:
    """What `Placement.keep` returns where both are: 16-bit sums would be rounded again and again, so a second
    gradient is added in fp32."""
    if before is None:
        return gradient
    if before.dtype == gradient.dtype and gradient.element_size() < 4:
        before = before.float()
    return before.add_(gradient)


class Resident:
    """Masters beside the computation: nothing to move."""

    resident = True

    def adopt(self, shard: Shard) -> None:
        """Leave it."""

    def before_gather(self, shard: Shard, out: Tensor) -> None:
        """Cast."""
        out.copy_(shard.flat)

    def prefetch(self, shard: Shard) -> None:
        """Nothing to read."""

    def keep(self, shard: Shard, gradient: Tensor, before: Tensor | None) -> Tensor:
        """All stays."""
        return added_up(gradient, before)

    def before_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer write 16-bit weights as it makes the new masters."""
        offer_copies(shards, optimizer)

    def after_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """See that all of them are written."""
        complete_copies(shards, optimizer)

    def settle(self) -> None:
        """Nothing is under way."""

    def opened(
        self, shard: Shard, optimizer: torch.optim.Optimizer | None = None, *, write: bool = True
    ) -> AbstractContextManager[None]:
        """All is open."""
        return nullcontext()
