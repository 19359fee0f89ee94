"""Rows to the ranks that have their experts, and back: two all-to-alls a layer and direction.

Lepikhin et al. 2020 (GShard, arXiv 2006.16668), section 3.1, and Rajbhandari et al. 2022 (DeepSpeed-MoE,
arXiv 2201.05596), section 5.2, send as many slots to each expert, filled or not. Here ranks first tell one
another how many rows they have for each expert, and then send these: nothing is padded, and nothing need be
dropped to make shapes agree.

Legend: S tokens, N rows of this rank's tokens, M rows that come here, D width, E experts, e of them here, r
ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring import comm
from mainspring.nn.moe import Dispatched, Routing, add_rows, gather_rows
from mainspring.parallel.tensor.operators import Line


class Across:
    """An `Exchange` over ranks, each of which has an equal run of a layer's experts."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def dispatch(self, x: Tensor, routing: Routing) -> Dispatched:
        """Send rows of x [S, D]; what comes is sorted by expert and, within one, by the rank it is from."""
        line = self.line
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))  # half the traffic: experts would cast it
        told = self._tell(routing.counts)
        pairs = told.view(line.size, line.size, -1).sum(2)
        largest = int(pairs.max())
        given, taken = pairs[line.index].tolist(), pairs[:, line.index].tolist()
        here = told.view(line.size, line.size, -1)[:, line.index]
        order = by_expert(here).to(x.device)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        came = exchange_rows(gather_rows(x, routing.token), given, taken, largest, line)

        def combine(rows: Tensor) -> Tensor:
            home = exchange_rows(permute_rows(rows, back, order), taken, given, largest, line)
            return add_rows(home, routing.weight, routing.token, routing.tokens)

        return Dispatched(permute_rows(came, order, back), here.sum(0).tolist(), combine)

    def _tell(self, counts: Tensor) -> Tensor:
        """Rows that each rank has for each expert, int64 [r, E], on the CPU."""
        every = counts.new_empty(self.line.size * len(counts))
        for work in comm.all_gather(
            every, counts.contiguous(), name="expert counts", group=self.line.group, counter=self.line.counter
        ):
            work.wait()
        return every.view(self.line.size, -1).cpu()


def by_expert(counts: Tensor) -> Tensor:
    """Where the rows of expert after expert stand among rows that came rank after rank.

    Args:
        counts: rows of each rank for each expert here, int64 [r, e]; a rank's come sorted by expert.

    Returns:
        int64 [M].

    >>> by_expert(torch.tensor([[1, 2], [2, 1]])).tolist()
    [0, 3, 4, 1, 2, 5]
    """
    flat = counts.flatten()
    starts = (flat.cumsum(0) - flat).view_as(counts).t().flatten()
    lengths = counts.t().flatten()
    ahead = lengths.cumsum(0) - lengths
    return torch.repeat_interleave(starts - ahead, lengths) + torch.arange(int(lengths.sum()))


def exchange_rows(x: Tensor, given: list[int], taken: list[int], largest: int, line: Line) -> Tensor:
    """Give rank after rank its rows of x [N, D], and take theirs: [M, D].

    Args:
        x: rows, in the order of the ranks they go to.
        given: rows for each rank.
        taken: rows from each rank.
        largest: the most rows between any two ranks.
        line: the ranks.
    """
    rows: Tensor = _Rows.apply(x, given, taken, largest, line)  # type: ignore[no-untyped-call]
    return rows


def permute_rows(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Rows `order` [M] of x [M, D]; `back` undoes it, so that the gradient is gathered, too."""
    rows: Tensor = _Permute.apply(x, order, back)  # type: ignore[no-untyped-call]
    return rows


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, given: list[int], taken: list[int], largest: int, line: Line) -> Tensor:
        ctx.rest = given, taken, largest, line
        return _send(x, given, taken, largest, line)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given, taken, largest, line = ctx.rest
        return _send(grad, taken, given, largest, line), None, None, None, None


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


def _send(x: Tensor, given: list[int], taken: list[int], largest: int, line: Line) -> Tensor:
    came = x.new_empty(sum(taken), x.shape[1])
    comm.all_to_all(
        came.split_with_sizes(taken),
        x.contiguous().split_with_sizes(given),
        name=line.name,
        largest=largest * x.shape[1],
        group=line.group,
        counter=line.counter,
    ).wait()
    return came
