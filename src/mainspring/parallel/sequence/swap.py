"""All-to-all with a gradient: a tensor cut along one dimension becomes one cut along another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring import comm
from mainspring.parallel.tensor.operators import Line


def swap(x: Tensor, give: int, take: int, sizes: Sequence[int], line: Line) -> Tensor:
    """Give each rank its part of dimension `give`, and join what comes along dimension `take`.

    Args:
        x: all ranks' have the same length of dimension `take`.
        give: dimension whose parts go to the ranks.
        take: dimension along which what arrives is joined in rank order.
        sizes: lengths of the parts of `give`, by rank.
        line: the ranks.
    """
    joined: Tensor = _Swap.apply(  # type: ignore[no-untyped-call]
        x, give, take, list(sizes), [x.shape[take]] * line.size, line
    )
    return joined


def swap_back(x: Tensor, give: int, take: int, sizes: Sequence[int], line: Line) -> Tensor:
    """Undo `swap(..., give, take, sizes, ...)`."""
    share = x.shape[take] // line.size
    whole: Tensor = _Swap.apply(  # type: ignore[no-untyped-call]
        x, take, give, [share] * line.size, list(sizes), line
    )
    return whole


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, give: int, take: int, given: list[int], taken: list[int], line: Line
    ) -> Tensor:
        ctx.rest = (give, take, given, taken, line)
        return _exchange(x, give, take, given, taken, line)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        give, take, given, taken, line = ctx.rest
        return _exchange(grad, take, give, taken, given, line), *(None,) * 5


def _exchange(x: Tensor, give: int, take: int, given: list[int], taken: list[int], line: Line) -> Tensor:
    outbox = [part.contiguous() for part in x.split_with_sizes(given, give)]
    inbox = []
    for length in taken:
        shape = list(x.shape)
        shape[give], shape[take] = given[line.index], length
        inbox.append(x.new_empty(shape))
    largest = max(given) * max(taken) * (x.numel() // max(1, x.shape[give] * x.shape[take]))
    comm.all_to_all(
        inbox, outbox, name=line.name, largest=largest, group=line.group, counter=line.counter
    ).wait()
    return torch.cat(inbox, take)
