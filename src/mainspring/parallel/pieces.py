"""Sums over whole parameters of which each rank has a piece."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring import comm
from mainspring.nn.span import cut_of, span_of
from mainspring.parallel.mesh import copies_of
from mainspring.parallel.strategy import Strategy, strategy_of


def piece_sum(model: nn.Module) -> Callable[[Sequence[nn.Parameter], Tensor], None]:
    """What completes sums that an optimizer has made of pieces, for those that need whole parameters.

    Returns:
        A function of n parameters of `model` and of rows [n, k] with their sums over what is here: it adds
        the rows up, in place, over the ranks among which a parameter is sharded or cut. Every rank calls it,
        with its parameters in the same order.
    """
    join = piece_join(model)
    return lambda parameters, rows: join(parameters, rows, "sum")


def piece_join(model: nn.Module) -> Callable[[Sequence[Tensor], Tensor, Literal["sum", "max"]], None]:
    """As `piece_sum`, of sums or maxima."""
    return partial(join_pieces, strategy_of(model))


def join_pieces(
    strategy: Strategy, pieces: Sequence[Tensor], rows: Tensor, op: Literal["sum", "max"]
) -> None:
    """Complete rows [n, k] of n tensors in place, over the ranks that have the rest of them.

    Args:
        strategy: how their model is spread.
        pieces: parameters, or what has the `span` and `cut` of one.
        rows: of what is here.
        op: what joins ranks.
    """
    axes = strategy.axes
    if axes is None:
        return
    over: dict[str, list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        cut = cut_of(piece)
        for axis in () if cut is None else cut.axes:
            over[axis].append(number)
        if isinstance(piece, DTensor) or span_of(piece) is not None:
            over[copies_of(piece)].append(number)
    for axis, numbers in sorted(over.items()):
        group = axes.group(axis)
        if group is not None:
            part = rows[numbers]
            comm.all_reduce(part, name="lengths", op=op, group=group, counter=strategy.counter)
            rows[numbers] = part
