"""Operators that reduce axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Function, Table, given, standard, widened

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def reduction(reduce: Reduction) -> Function:
    """A reduction whose axes are an attribute in older opsets and an input in newer ones."""

    def apply(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = given(call, "axes", axes)
        if not chosen:
            if call.get("noop_with_empty_axes", 0):
                return reduce(x[None], [0], False)
            chosen = list(range(x.ndim))
        return reduce(x, chosen, bool(call.get("keepdims", 1)))

    return widened(apply)


def total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Sum, in the type of x."""
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype) if axes else x


def average(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Mean, in the type of x."""
    if not x.is_floating_point():
        return torch.mean(x.double(), axes, keepdim=keep).to(x.dtype)
    return torch.mean(x, axes, keepdim=keep) if axes else x


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Product."""
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Maximum; of nothing, the type's least value."""
    if x.numel() == 0:
        return _bound(x, axes, keep, lowest=True)
    return torch.amax(x, axes, keepdim=keep) if axes else x


def smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Minimum; of nothing, the type's largest value."""
    if x.numel() == 0:
        return _bound(x, axes, keep, lowest=False)
    return torch.amin(x, axes, keepdim=keep) if axes else x


def _bound(x: Tensor, axes: list[int], keep: bool, lowest: bool) -> Tensor:
    if x.is_floating_point():
        value = float("-inf") if lowest else float("inf")
    elif x.dtype == torch.bool:
        value = float(not lowest)
    else:
        limits = torch.iinfo(x.dtype)
        value = limits.min if lowest else limits.max
    return torch.full_like(total(x.float(), axes, keep), value, dtype=x.dtype)


def l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Sum of absolute values."""
    return total(x.abs(), axes, keep)


def l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Square root of the sum of squares."""
    return squares(x, axes, keep).sqrt()


def squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Sum of squares."""
    return total(x * x, axes, keep)


def log_total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Logarithm of the sum."""
    return total(x, axes, keep).log()


def log_exponentials(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Logarithm of the sum of exponentials."""
    return torch.logsumexp(x, axes, keepdim=keep) if axes else x


def extreme(find: Callable[..., Tensor]) -> Function:
    """Where an axis has its largest or smallest element: the first of them, or with select_last_index the
    last."""

    def apply(call: Call, x: Tensor) -> Tensor:
        axis: int = call.get("axis", 0)
        keep = bool(call.get("keepdims", 1))
        if call.get("select_last_index", 0):
            from_end = find(x.flip(axis), dim=axis, keepdim=keep)
            return from_end.neg() + (x.shape[axis] - 1)
        return find(x, dim=axis, keepdim=keep)

    return apply


def cumulative(scan: Callable[..., Tensor], neutral: float) -> Function:
    """Sums or products along an axis, perhaps backwards, perhaps without the element itself."""

    def apply(call: Call, x: Tensor, axis: Tensor) -> Tensor:
        dim = int(axis)
        x = x.flip(dim) if call.get("reverse", 0) else x
        if call.get("exclusive", 0):
            first = torch.full_like(x.narrow(dim, 0, 1), neutral)
            x = torch.cat([first, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
        result = scan(x, dim=dim, dtype=x.dtype)
        return result.flip(dim) if call.get("reverse", 0) else result

    return apply


def top_k(call: Call, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest or smallest elements of an axis, and where they are; of equal ones the first."""
    count = int(k) if k is not None else call.get("k")
    axis, largest_first = call.get("axis", -1), bool(call.get("largest", 1))
    values, where = torch.sort(x, dim=axis, descending=largest_first, stable=True)
    return values.narrow(axis, 0, count), where.narrow(axis, 0, count)


REDUCTION: Table = standard(
    {
        ("ArgMax", 1): extreme(torch.argmax),
        ("ArgMin", 1): extreme(torch.argmin),
        ("CumProd", 26): cumulative(torch.cumprod, 1),
        ("CumSum", 11): cumulative(torch.cumsum, 0),
        ("ReduceL1", 1): reduction(l1),
        ("ReduceL2", 1): reduction(l2),
        ("ReduceLogSum", 1): reduction(log_total),
        ("ReduceLogSumExp", 1): reduction(log_exponentials),
        ("ReduceMax", 1): reduction(largest),
        ("ReduceMean", 1): reduction(average),
        ("ReduceMin", 1): reduction(smallest),
        ("ReduceProd", 1): reduction(product),
        ("ReduceSum", 1): reduction(total),
        ("ReduceSumSquare", 1): reduction(squares),
        ("TopK", 1): widened(top_k),
    }
)
