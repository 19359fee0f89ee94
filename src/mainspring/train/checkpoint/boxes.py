"""Which boxes of a logical tensor this process holds, whatever way the tensor is sharded.

A plain tensor is one box, and so is a DTensor's shard, or a parameter of which tensor or expert parallelism
has cut dimensions. A piece of a flat shard is a run of elements in row-major order (`mainspring.nn.span`), of
the whole or of such a box: the end of a row, whole rows, the beginning of a row, and so in each dim, at most
2 d - 1 boxes in d dims. Each box of a run is a run itself, so none is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from mainspring.errors import CheckpointError
from mainspring.nn.span import Cut, Span, cut_of, logical_shape, span_of
from mainspring.train.checkpoint.tiers import Tier


@dataclass(frozen=True)
class Box:
    """A part of a logical tensor that is here."""

    offsets: tuple[int, ...]
    """First index in each dim."""
    sizes: tuple[int, ...]
    """Length in each dim."""
    read: Callable[[], Tensor]
    """Gives its elements [*sizes], a view."""

    @property
    def data(self) -> Tensor:
        """Its elements [*sizes], a view."""
        return self.read()

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Held:
    """What this process holds of a logical tensor."""

    shape: torch.Size
    """Shape of the whole."""
    dtype: torch.dtype
    boxes: tuple[Box, ...]
    """None where this process' share is empty. A tensor without elements is one box without elements, so
    that its name is not lost."""

    tier: Tier | None = None
    """What has to be open while boxes are read; None where all is in memory."""

    def copied(self) -> Held:
        """The same in memory of its own, on the CPU; what is in a tier stays there."""
        if self.tier is not None:
            return self
        copies = [_copied(box) for box in self.boxes]
        return Held(self.shape, self.dtype, tuple(copies))


Leaf = Tensor | Held
"""A tensor that is saved: plain, a DTensor, or a piece of a flat shard (`mainspring.nn.span`); or its
boxes."""


def held(name: str, tensor: Leaf) -> Held:
    """The boxes of `tensor` that this process holds, as views.

    Raises:
        CheckpointError: `tensor` is no tensor, or has no storage behind its shape (it is on the meta device,
            or was freed).
    """
    if isinstance(tensor, Held):
        return tensor
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"{name}: only tensors can be saved as slices, not a {type(tensor).__name__}")
    shape, span, cut = logical_shape(tensor), span_of(tensor), cut_of(tensor)
    if span is not None:
        _check_storage(name, tensor)
        return held_piece(span, cut, tensor.dtype, tensor.detach)
    found = _of_dtensor(tensor) if isinstance(tensor, DTensor) else [_of_plain(tensor.detach(), cut)]
    kept = tuple(box for box in found if box.numel or not shape.numel())
    for box in kept:
        _check_storage(name, box.data)
    return Held(shape, tensor.dtype, kept)


def held_piece(
    span: Span, cut: Cut | None, dtype: torch.dtype, read: Callable[[], Tensor], tier: Tier | None = None
) -> Held:
    """A piece (of a box, where there is a cut) whose elements [span.numel] `read` gives, while `tier` is open
    if there is one."""
    found, at = [], 0
    for offsets, sizes in flat_boxes(span.shape, span.start, span.stop):
        found.append(Box(_moved(offsets, cut), sizes, partial(_part, read, at, sizes)))
        at += math.prod(sizes)
    return Held(span.shape if cut is None else cut.shape, dtype, tuple(found), tier)


def flat_boxes(
    shape: Sequence[int], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of the boxes that make up elements `start` to `stop` of `shape`, in that order.

    >>> list(flat_boxes((3, 4), 2, 9))
    [((0, 2), (1, 2)), ((1, 0), (1, 4)), ((2, 0), (1, 1))]
    """
    if math.prod(shape) == 0:
        yield (0,) * len(shape), tuple(shape)
        return
    if start == stop:
        return
    if not shape:
        yield (), ()
        return
    width = math.prod(shape[1:])
    (first, head), (last, tail) = divmod(start, width), divmod(stop, width)
    if first == last:
        yield from _in_row(shape, first, head, tail)
        return
    if head:
        yield from _in_row(shape, first, head, width)
        first += 1
    if last > first:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    if tail:
        yield from _in_row(shape, last, 0, tail)


def _in_row(
    shape: Sequence[int], row: int, start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for offsets, sizes in flat_boxes(shape[1:], start, stop):
        yield (row, *offsets), (1, *sizes)


def _of_dtensor(tensor: DTensor) -> list[Box]:
    if tensor.device_mesh.get_coordinate() is None:
        return []
    sizes, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    local = tensor.to_local().detach()
    return [Box(tuple(offsets), tuple(sizes), lambda: local)]


def _of_plain(tensor: Tensor, cut: Cut | None) -> Box:
    return Box(_moved((0,) * tensor.ndim, cut), tuple(tensor.shape), lambda: tensor)


def _moved(offsets: tuple[int, ...], cut: Cut | None) -> tuple[int, ...]:
    """Where something of a box is in the whole."""
    if cut is None:
        return offsets
    return tuple(a + b for a, b in zip(offsets, cut.offsets, strict=True))


def _part(read: Callable[[], Tensor], start: int, sizes: tuple[int, ...]) -> Tensor:
    return read().detach()[start : start + math.prod(sizes)].view(sizes)


def _copied(box: Box) -> Box:
    copy = box.data.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return Box(box.offsets, box.sizes, lambda: copy)


def _check_storage(name: str, data: Tensor) -> None:
    if data.is_meta:
        raise CheckpointError(f"{name}: has a shape but no values: it is on the meta device")
    needed = 0
    if data.numel():
        reach = sum((n - 1) * stride for n, stride in zip(data.shape, data.stride(), strict=True))
        needed = int(data.storage_offset() + reach + 1) * data.element_size()
    if data.untyped_storage().nbytes() < needed:
        raise CheckpointError(f"{name}: has a shape but no values: its storage was freed")
    if span_of(data) is not None and data.numel() > 1 and data.stride(0) == 0:
        raise CheckpointError(f"{name}: has a shape but no values: they are in an offloading tier")
