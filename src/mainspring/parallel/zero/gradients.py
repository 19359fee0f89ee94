"""Gradients of pieces, whose norms are those of the whole parameters.

A loop that was written for one process clips with `torch.nn.utils.clip_grad_norm_`. Of pieces it would take
the norm of what is here, another one on every rank, and scale each rank's part by another factor. So between
backward and step pieces show gradients of a tensor subclass that answers the two norms which torch clips by
(`torch.linalg.vector_norm` of all elements, `torch._foreach_norm`) with sums over the ranks, and is an
ordinary tensor to everything else. Optimizers are shown plain ones.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mainspring.errors import PlanError
from mainspring.nn.span import cut_of, mark, mark_cut, span_of
from mainspring.parallel.pieces import join_pieces
from mainspring.parallel.strategy import Strategy


class PieceGradient(Tensor):
    """This rank's piece of a gradient, [span.numel], marked with what the parameter is marked with."""

    strategy: weakref.ref[Strategy]
    """Which ranks have the rest of it. Weakly: Python's collector does not see from a parameter to its
    gradient, so what this held would never go."""

    @classmethod
    def of(cls, gradient: Tensor, parameter: Tensor, strategy: Strategy) -> PieceGradient:
        """The same memory, seen as the gradient of a piece of a parameter."""
        span = span_of(parameter)
        assert span is not None, "a parameter on flat shards is marked with its part"
        piece = gradient.as_subclass(cls)
        mark(mark_cut(piece, cut_of(parameter)), span)
        piece.strategy = weakref.ref(strategy)
        return piece

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Results are plain tensors: only a gradient as backward left it stands for a parameter's.
        with torch._C.DisableTorchFunctionSubclass():
            return _NORMS.get(func, func)(*args, **(kwargs or {}))


def plain(gradient: Tensor) -> Tensor:
    """The same memory as an ordinary tensor."""
    if not isinstance(gradient, PieceGradient):
        return gradient
    with torch._C.DisableTorchFunctionSubclass():
        return gradient.as_subclass(Tensor)


def _vector_norm(x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, **options: Any) -> Tensor:
    """torch's, where it is asked for along dimensions; else of the whole parameter's gradient."""
    if dim is not None or keepdim or options.get("out") is not None:
        along: Tensor = torch.linalg.vector_norm(x, ord, dim, keepdim, **options)
        return along
    (norm,) = _whole_norms([x], float(ord), options.get("dtype"))
    return norm


def _foreach_norm(
    tensors: Sequence[Tensor], ord: float = 2, dtype: torch.dtype | None = None
) -> list[Tensor]:
    return _whole_norms(tensors, float(ord), dtype)


_NORMS: dict[Any, Callable[..., Any]] = {
    torch.linalg.vector_norm: _vector_norm,
    torch._foreach_norm: _foreach_norm,
}
"""What is answered for all ranks. All of them ask, in the same order: as many sums as calls."""


def _whole_norms(tensors: Sequence[Tensor], order: float, dtype: torch.dtype | None) -> list[Tensor]:
    """Norms [] of tensors; of pieces those of the wholes, at least fp32."""
    pieces = [one for one in tensors if isinstance(one, PieceGradient)]
    if pieces and not order > 0:
        raise PlanError(
            f"a norm of order {order:g} of gradients that are sharded: use an order above 0, or math.inf"
        )
    found = {id(one): _norm(plain(one), order, dtype) for one in tensors}
    strategies = {id(one): _strategy_of(one) for one in pieces}
    for strategy in dict.fromkeys(strategies.values()):
        mine = [one for one in pieces if strategies[id(one)] is strategy]
        here = torch.stack([found[id(one)].double() for one in mine])[:, None]
        rows = here if math.isinf(order) else here.pow(order)
        join_pieces(strategy, mine, rows, "max" if math.isinf(order) else "sum")
        whole = rows if math.isinf(order) else rows.pow(1 / order)
        found.update((id(one), n.to(found[id(one)].dtype)) for one, n in zip(mine, whole[:, 0], strict=True))
    return [found[id(one)] for one in tensors]


def _norm(tensor: Tensor, order: float, dtype: torch.dtype | None) -> Tensor:
    dtype = torch.promote_types(tensor.dtype, torch.float32) if dtype is None else dtype
    if not tensor.numel():
        return torch.zeros((), dtype=dtype, device=tensor.device)
    norm: Tensor = torch.linalg.vector_norm(tensor, order, dtype=dtype)
    return norm


def _strategy_of(piece: PieceGradient) -> Strategy:
    strategy = piece.strategy()
    if strategy is None:
        raise PlanError("the norm of a gradient whose model is gone: keep the model while it is used")
    return strategy
