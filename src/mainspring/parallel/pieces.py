"""Sums over whole parameters of which each rank has a piece."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring import comm
from mainspring.nn.span import cut_of, span_of
from mainspring.parallel.mesh import copies_of
from mainspring.parallel.strategy import strategy_of


def piece_sum(model: nn.Module) -> Callable[[Sequence[nn.Parameter], Tensor], None]:
    """What completes sums that an optimizer has made of pieces, for those that need whole parameters.

    Returns:
        A function of n parameters of `model` and of rows [n, k] with their sums over what is here: it adds
        the rows up, in place, over the ranks among which a parameter is sharded or cut. Every rank calls it,
        with its parameters in the same order.
    """
    join = piece_join(model)
    return lambda parameters, rows: join(parameters, rows, "sum")


def piece_join(model: nn.Module) -> Callable[[Sequence[nn.Parameter], Tensor, Literal["sum", "max"]], None]:
    """As `piece_sum`, of sums or maxima."""
    strategy = strategy_of(model)

    def join(parameters: Sequence[nn.Parameter], rows: Tensor, op: Literal["sum", "max"]) -> None:
        axes = strategy.axes
        if axes is None:
            return
        over: dict[str, list[int]] = defaultdict(list)
        for number, parameter in enumerate(parameters):
            cut = cut_of(parameter)
            for axis in () if cut is None else cut.axes:
                over[axis].append(number)
            if isinstance(parameter, DTensor) or span_of(parameter) is not None:
                over[copies_of(parameter)].append(number)
        for axis, numbers in sorted(over.items()):
            group = axes.group(axis)
            if group is not None:
                part = rows[numbers]
                comm.all_reduce(part, name="lengths", op=op, group=group, counter=strategy.counter)
                rows[numbers] = part

    return join
