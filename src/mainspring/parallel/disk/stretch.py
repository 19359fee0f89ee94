"""A stretch of a shard in memory, and lending it to the pieces and to an optimizer for a while."""

from __future__ import annotations

import copy
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.parallel.disk.buffers import round_up
from mainspring.parallel.zero.placement import Shard

MASTER = "master"
"""Kind of the fp32 parameters."""
COMPUTE = "compute"
"""Kind of the parameters in the dtype of computation, where that is another."""


def away(numel: int, dtype: torch.dtype) -> Tensor:
    """Stands for a state [numel] that is on disk: one element repeated, not a number, not to be written."""
    value = float("nan") if dtype.is_floating_point else 0
    nothing = torch.full((1,), value, dtype=dtype).as_strided((numel,), (0,))
    nothing._is_away = True  # type: ignore[attr-defined]
    return nothing


def is_away(value: Tensor) -> bool:
    """Whether `away` made it."""
    return getattr(value, "_is_away", False)


@dataclass
class Kept:
    """What an optimizer keeps for one piece."""

    scalars: dict[str, Any] | None = None
    """All that is not one element for each of the piece's (as the count of steps); None before a step."""
    rows: dict[str, torch.dtype] = field(default_factory=dict)
    """States with one element for each of the piece's."""


@dataclass
class Stretch:
    """Elements `start` to `stop` of a shard, with a buffer for each kind of tensor."""

    shard: Shard
    start: int
    stop: int
    buffers: dict[str, Tensor] = field(default_factory=dict)
    """uint8, by kind."""
    reads: list[Future[None]] = field(default_factory=list)
    """To be waited for before the buffers are used."""
    private: bool = False
    """Whether the buffers are not of an arena."""

    def row(self, kind: str, dtype: torch.dtype) -> Tensor:
        """The elements of one kind: [stop - start]."""
        return self.buffers[kind].view(dtype)[: self.stop - self.start]

    def pages(self, kind: str, dtype: torch.dtype) -> Tensor:
        """The bytes of these elements, with the rest of the last page."""
        return self.buffers[kind][: round_up((self.stop - self.start) * dtype.itemsize)]


@dataclass
class Part:
    """Where a piece and a stretch overlap."""

    piece: nn.Parameter
    place: slice
    """Of the whole piece in its shard."""
    here: slice
    """Of the overlap, in the stretch."""
    inside: slice
    """Of the overlap, in the piece."""

    @property
    def numel(self) -> int:
        """Elements of the whole piece."""
        return int(self.place.stop - self.place.start)

    @property
    def is_last(self) -> bool:
        """Whether the piece ends in this stretch."""
        return int(self.inside.stop) == self.numel


def parts_of(stretch: Stretch) -> list[Part]:
    """The pieces that have elements in a stretch."""
    shard, found = stretch.shard, []
    for piece, place in zip(shard.pieces, shard.places, strict=True):
        start, stop = max(place.start, stretch.start), min(place.stop, stretch.stop)
        if start < stop:
            here = slice(start - stretch.start, stop - stretch.start)
            found.append(Part(piece, place, here, slice(start - place.start, stop - place.start)))
    return found


class Lent:
    """A context in which pieces are as long as their part of a stretch, with its masters and gradients.

    Args:
        cast: whether gradients have to be of the masters' dtype.
    """

    def __init__(self, stretch: Stretch, parts: list[Part], *, cast: bool = True) -> None:
        self._stretch, self._parts, self._cast = stretch, parts, cast
        self._before = [(p.piece.data, p.piece.grad, p.piece.grad_dtype) for p in parts]

    def __enter__(self) -> None:
        masters = self._stretch.row(MASTER, self._stretch.shard.dtype)
        for part, (_, gradient, _) in zip(self._parts, self._before, strict=True):
            part.piece.grad = None
            part.piece.data = masters[part.here]
            if gradient is not None:
                part.piece.grad_dtype = None
                own = gradient[part.inside]  # where the model computes; masters are here
                dtype = part.piece.dtype if self._cast else own.dtype
                part.piece.grad = own.to(device=masters.device, dtype=dtype)

    def __exit__(self, *_: object) -> None:
        for part, (data, gradient, dtype) in zip(self._parts, self._before, strict=True):
            part.piece.grad = None
            part.piece.data = data
            part.piece.grad_dtype = dtype
            part.piece.grad = gradient


def lend_states(optimizer: torch.optim.Optimizer, stretch: Stretch, part: Part, kept: Kept) -> None:
    """Let the optimizer find the states of `part` that `stretch` holds."""
    optimizer.state.pop(part.piece, None)
    if kept.scalars is not None:
        rows = {kind: stretch.row(kind, dtype)[part.here] for kind, dtype in kept.rows.items()}
        optimizer.state[part.piece] = {**{k: _own(v) for k, v in kept.scalars.items()}, **rows}


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def rows_of(optimizer: torch.optim.Optimizer, piece: nn.Parameter) -> dict[str, Tensor]:
    """States with one element for each of the piece's present ones."""
    state = optimizer.state.get(piece, {})
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.dim() and v.shape == piece.shape}


def leave_states(optimizer: torch.optim.Optimizer, part: Part, kept: Kept) -> None:
    """Put in place of the states of a piece what says that they are away."""
    state = optimizer.state.get(part.piece)
    if state:
        rows = {kind: away(part.numel, dtype) for kind, dtype in kept.rows.items()}
        optimizer.state[part.piece] = {**{k: v for k, v in state.items() if k not in kept.rows}, **rows}
