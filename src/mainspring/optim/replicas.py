"""What an optimizer that speaks to other ranks itself asks of them. `parallel.replicas(model)` gives one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mainspring.numerics.signs import Scale


class Compressed(Protocol):
    """A mean over ranks in one bit an element, with what is owed from call to call."""

    def __call__(self, buffer: Tensor, *, name: str) -> None:
        """Replace `buffer` [total] by the mean, in place."""

    def share(self) -> Tensor:
        """What all ranks owe together [total]; from now on they owe it in common."""

    def restore(self, owed: Tensor) -> None:
        """Owe what `share` returned: all of it, or the part that is stepped here."""

    def reset(self) -> None:
        """Owe nothing."""


class Replicas(Protocol):
    """The ranks that hold the same parameters and read other rows, seen through one flat buffer.

    The buffer has a place for every trainable parameter, equal on all ranks. A rank steps the part `own` of
    it: everything, or its shard.
    """

    communication: Literal["exact", "compressed", "adasum"]
    """What the plan says of it."""
    size: int
    """How many ranks."""
    total: int
    """Elements of the buffer."""
    own: slice
    """What of the buffer is stepped here."""

    def follow(self, reduces: Callable[[], bool]) -> None:
        """From now on ask `reduces`, before each step's first backward, whether gradients are joined by the
        ranks as usual; where not, each rank keeps its own."""

    def place(self, parameter: nn.Parameter) -> slice:
        """Where in `own` a parameter that an optimizer holds lies."""

    def add_gradients(self, out: Tensor, keep: float, share: float) -> None:
        """`out` [total] becomes `keep * out + share * g` with this rank's own gradient g, whose mean over
        ranks is the gradient of the whole batch."""

    def compressed(self, *, whole: bool = False, scale: Scale = "l1") -> Compressed:
        """A compressed mean of the buffer, with a scale for every parameter (the part of it that a rank
        serves), or with `whole` one for all that a rank serves (on shards, of a unit; over tensor ranks, one
        for what they hold alike and one for what is cut among them)."""

    def gather(self, own: Tensor) -> Tensor:
        """Join what the ranks have of a buffer: [own] -> [total]."""

    def adasum(self, buffer: Tensor) -> None:
        """Join the buffers [total] of all ranks by Adasum, parameter by parameter, in place."""

    def average(self, tensors: Sequence[Tensor], *, name: str) -> None:
        """Replace tensors by their means over ranks."""

    def join(self, parameters: Sequence[nn.Parameter], rows: Tensor, op: Literal["sum", "max"]) -> None:
        """Complete rows [n, k] of sums or maxima over what is here of n parameters, in place."""


@runtime_checkable
class Settles(Protocol):
    """An optimizer whose ranks differ in something between steps."""

    def settle(self) -> None:
        """Bring to all ranks what only some have, so that states may be saved; every rank calls it."""


def shaped(flat: Tensor, parameter: Tensor) -> Tensor:
    """A stretch [numel] in the shape of a parameter, and in its order of memory where that is dense."""
    dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    if not dense:
        return flat.view(parameter.shape)
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())
