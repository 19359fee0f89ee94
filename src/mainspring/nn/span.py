"""The part of a parameter that a rank holds: a box of it where dimensions are cut (tensor and expert
parallelism), a run of elements where it is sharded element by element (ZeRO), or a run of a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound=Tensor)


@dataclass(frozen=True)
class Span:
    """Elements `start` to `stop` of a tensor of shape `shape`, counted row-major."""

    shape: torch.Size
    """Shape of the whole parameter; of a cut one, of the box that is here."""
    start: int
    """First element that is here."""
    stop: int
    """First element after it that is not."""

    @property
    def numel(self) -> int:
        """Number of elements that are here."""
        return self.stop - self.start


@dataclass(frozen=True)
class Cut:
    """A box of a parameter: what the ranks of some axes of the mesh have between them, each a part."""

    shape: torch.Size
    """Shape of the whole parameter."""
    offsets: tuple[int, ...]
    """First index of the box in each dimension."""
    sizes: tuple[int, ...]
    """Its length in each dimension."""
    axes: tuple[str, ...]
    """Axes of the mesh over whose ranks boxes differ."""

    @classmethod
    def whole(cls, shape: torch.Size) -> Cut:
        """The box that is everything."""
        return cls(shape, (0,) * len(shape), tuple(shape), ())

    def narrow(self, dim: int, start: int, length: int, axis: str) -> Cut:
        """`length` indices from `start` on, of dimension `dim` of this box.

        >>> Cut.whole(torch.Size((4, 6))).narrow(1, 3, 3, "tensor").offsets
        (0, 3)
        """
        offsets, sizes = list(self.offsets), list(self.sizes)
        offsets[dim] += start
        sizes[dim] = length
        return Cut(self.shape, tuple(offsets), tuple(sizes), (*self.axes, axis))

    def of(self, whole: Tensor) -> Tensor:
        """The box of a tensor of the whole's shape, a view."""
        for dim, (offset, size) in enumerate(zip(self.offsets, self.sizes, strict=True)):
            whole = whole.narrow(dim, offset, size)
        return whole


def mark(piece: Tensor, span: Span) -> None:
    """Note on a flat tensor [span.numel] which part of a parameter it is."""
    if piece.shape != (span.numel,):
        raise ValueError(
            f"a piece of {span.numel} elements has the shape [{span.numel}], not {list(piece.shape)}"
        )
    piece.span = span  # type: ignore[attr-defined]


def mark_cut(part: T, cut: Cut | None) -> T:
    """Note on a tensor, or on a flat piece of it, which box of a parameter it is of; returns it."""
    if cut is not None:
        part.cut = cut  # type: ignore[attr-defined]
    return part


def span_of(parameter: Tensor) -> Span | None:
    """What `mark` noted; None of a tensor that is whole."""
    found = getattr(parameter, "span", None)
    return found if isinstance(found, Span) else None


def cut_of(parameter: Tensor) -> Cut | None:
    """What `mark_cut` noted; None of a tensor that no dimension of is cut."""
    found = getattr(parameter, "cut", None)
    return found if isinstance(found, Cut) else None


def logical_shape(parameter: Tensor) -> torch.Size:
    """Shape of the whole parameter of which `parameter` may be a part."""
    cut, span = cut_of(parameter), span_of(parameter)
    if cut is not None:
        return cut.shape
    return parameter.shape if span is None else span.shape
