"""Where parameters lie in a flat row, and which part of the row belongs to which rank.

Parameters follow each other element by element and the row is cut in equal parts, wherever that falls: a rank
holds at most one element more than an ideal share, however odd the shapes (whole rows, as FSDP2 cuts them,
put 13.9 % too much on a rank for a width of 4256 on 1,024 ranks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from mainspring.nn.span import Span


@dataclass(frozen=True)
class Layout:
    """A flat row of parameters over `world` ranks."""

    shapes: tuple[torch.Size, ...]
    """Shapes of the parameters, in the order of the row."""
    offsets: tuple[int, ...]
    """Where each parameter begins."""
    numel: int
    """Elements of all parameters."""
    part: int
    """Elements of each rank's part; the last part is padded."""
    world: int
    """Number of ranks."""

    @classmethod
    def of(cls, shapes: Sequence[torch.Size], world: int) -> Layout:
        """Lay out parameters of these shapes.

        >>> layout = Layout.of([torch.Size((2, 3)), torch.Size((1,))], world=2)
        >>> layout.part, layout.span(0, rank=1).start, layout.local(1, rank=1)
        (4, 4, slice(2, 3, None))
        """
        ends = list(accumulate(shape.numel() for shape in shapes))
        numel = ends[-1] if ends else 0
        return cls(tuple(shapes), (0, *ends[:-1]) if ends else (), numel, -(-numel // world), world)

    @property
    def padded(self) -> int:
        """Elements of the row with its padding: `world` parts."""
        return self.part * self.world

    def span(self, index: int, rank: int) -> Span:
        """Which elements of parameter `index` the part of `rank` holds (possibly none)."""
        offset, shape = self.offsets[index], self.shapes[index]
        size = shape.numel()
        start = min(max(rank * self.part - offset, 0), size)
        stop = min(max((rank + 1) * self.part - offset, 0), size)
        return Span(shape, start, stop)

    def local(self, index: int, rank: int) -> slice:
        """Where in the part of `rank` these elements lie."""
        span = self.span(index, rank)
        start = min(max(self.offsets[index] + span.start - rank * self.part, 0), self.part)
        return slice(start, start + span.numel)
