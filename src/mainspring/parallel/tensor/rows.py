"""A table of tokens that is cut over ranks: looking up, and the sums that a loss needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring import comm
from mainspring.parallel.tensor import operators
from mainspring.parallel.tensor.operators import Line


def bounds(units: int, index: int, size: int) -> tuple[int, int]:
    """First unit of a rank, and of the next: as equal as units allow.

    >>> [bounds(7, index, 3) for index in range(3)]
    [(0, 2), (2, 4), (4, 7)]
    """
    return units * index // size, units * (index + 1) // size


class Rows:
    """What `mainspring.nn.vocabulary` asks for, over a group of ranks.

    Args:
        line: the ranks.
        rows: of the whole table.
        total: tokens of the vocabulary; rows beyond have no logits.
    """

    def __init__(self, line: Line, rows: int, total: int) -> None:
        self._line, self._rows, self.total = line, rows, total
        self.first, self._stop = bounds(rows, line.index, line.size)

    def local(self, token: int | None) -> int | None:
        """Row of a token here; None where another rank has it."""
        return token - self.first if token is not None and self.first <= token < self._stop else None

    def embed(self, table: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """Vectors of tokens: those of this rank are looked up, and the ranks add up."""
        elsewhere = (ids < self.first) | (ids >= self._stop)
        vectors = table((ids - self.first).masked_fill(elsewhere, 0))
        vectors = vectors.masked_fill(elsewhere[..., None], 0.0)
        whole: Tensor = operators.Total.apply(self._line, vectors)  # type: ignore[no-untyped-call]
        return whole

    def combine(self, largest: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The largest, and the sums, the first of them with the largest of all ranks in place of one's
        own."""
        line = self._line
        most, together = largest.clone(), sums.clone()
        comm.all_reduce(most, name=line.name, op="max", group=line.group, counter=line.counter)
        together[0] *= torch.exp(largest - most)
        comm.all_reduce(together, name=line.name, group=line.group, counter=line.counter)
        return most, together

    def gather(self, logits: Tensor) -> Tensor:
        """Logits of all tokens; a gradient of them has to be the same on all ranks."""
        line = self._line
        widths = [
            min(stop, self.total) - min(start, self.total)
            for start, stop in (bounds(self._rows, index, line.size) for index in range(line.size))
        ]
        whole: Tensor = _Gather.apply(line, widths, logits)  # type: ignore[no-untyped-call]
        return whole

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return self


class _Gather(torch.autograd.Function):
    """Columns of all ranks beside one another; backward takes this rank's."""

    @staticmethod
    def forward(ctx: Any, line: Line, widths: list[int], logits: Tensor) -> Tensor:
        ctx.own = slice(sum(widths[: line.index]), sum(widths[: line.index + 1]))
        shape = (*logits.shape[:-1], max(widths))
        padded = logits.new_zeros(shape)
        padded[..., : logits.shape[-1]] = logits
        whole = logits.new_empty(line.size, *shape)
        for work in comm.all_gather(
            whole.view(-1), padded.view(-1), name=line.name, group=line.group, counter=line.counter
        ):
            work.wait()
        return torch.cat([part[..., :width] for part, width in zip(whole, widths, strict=True)], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, grad[..., ctx.own]
