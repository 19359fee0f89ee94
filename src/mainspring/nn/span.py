"""The part of a parameter that a rank holds when parameters are sharded element by element."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Elements `start` to `stop` of a parameter of shape `shape`, counted row-major."""

    shape: torch.Size
    """Shape of the whole parameter."""
    start: int
    """First element that is here."""
    stop: int
    """First element after it that is not."""

    @property
    def numel(self) -> int:
        """Number of elements that are here."""
        return self.stop - self.start


def mark(piece: Tensor, span: Span) -> None:
    """Note on a flat tensor [span.numel] which part of a parameter it is."""
    if piece.shape != (span.numel,):
        raise ValueError(
            f"a piece of {span.numel} elements has the shape [{span.numel}], not {list(piece.shape)}"
        )
    piece.span = span  # type: ignore[attr-defined]


def span_of(parameter: Tensor) -> Span | None:
    """What `mark` noted; None of a tensor that is whole."""
    found = getattr(parameter, "span", None)
    return found if isinstance(found, Span) else None


def logical_shape(parameter: Tensor) -> torch.Size:
    """Shape of the whole parameter of which `parameter` may be a piece."""
    span = span_of(parameter)
    return parameter.shape if span is None else span.shape
