"""Add up what ranks hold, always in rank order: the same bits on every rank and in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "max", "min"]

_PAIR: dict[Reduction, Callable[..., Any]] = {
    "sum": torch.add,
    "mean": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}


def reduce_into(out: Tensor, terms: list[Tensor], op: Reduction, scratch: Scratch) -> None:
    """Combine `terms` (one a rank, each [n], of the dtype of `out`) into `out` [n].

    16-bit floats are summed in fp32 and rounded once. `out` may be the memory of one of the terms.
    """
    if len(terms) == 1:
        if out.data_ptr() != terms[0].data_ptr():
            out.copy_(terms[0])
        return
    short = out.dtype in (torch.bfloat16, torch.float16)
    if short and op in ("sum", "mean") and not (len(terms) == 2 and op == "sum"):
        for start in range(0, out.numel(), Scratch.SHORT):
            part = slice(start, start + Scratch.SHORT)
            _short_sum(out[part], [term[part] for term in terms], op, scratch)
        return
    combine = _PAIR[op]
    # Two 16-bit numbers are added in fp32 by torch itself.
    total = terms[0]
    for term in terms[1:-1]:
        # Not in `out`, which may be a term still to come.
        held = scratch.get(out.numel(), out.dtype)
        combine(total, term, out=held)
        total = held
    combine(total, terms[-1], out=out)
    if op == "mean":
        out.div_(len(terms))


def _short_sum(out: Tensor, terms: list[Tensor], op: Reduction, scratch: Scratch) -> None:
    total, wide = scratch.get(2 * out.numel(), torch.float32).view(2, -1)
    total.copy_(terms[0])
    for term in terms[1:]:
        total.add_(wide.copy_(term))
    if op == "mean":
        total.div_(len(terms))
    out.copy_(total)


class Scratch:
    """A buffer for partial sums, kept between calls: the size of one chunk at most."""

    SHORT = 1 << 15
    """Elements of 16-bit floats that are widened at a time: they stay in the cache."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def get(self, numel: int, dtype: torch.dtype) -> Tensor:
        """[numel] of `dtype`, holding anything."""
        need = numel * dtype.itemsize
        if self._bytes.numel() < need:
            self._bytes = torch.empty(need, dtype=torch.uint8)
        return self._bytes[:need].view(dtype)
