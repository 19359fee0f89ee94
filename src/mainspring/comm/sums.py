"""Add up what ranks hold, always in rank order: the same bits on every rank and in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "max", "min"]

BLOCK = 1 << 15
"""Elements worked on at a time where partial sums are kept: they stay in the cache."""
_PAIR: dict[Reduction, Callable[..., Any]] = {
    "sum": torch.add,
    "mean": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}


class Scratch:
    """A buffer for partial sums, kept between calls."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def get(self, numel: int, dtype: torch.dtype) -> Tensor:
        """[numel] of `dtype`, holding anything."""
        need = numel * dtype.itemsize
        if self._bytes.numel() < need:
            self._bytes = torch.empty(need, dtype=torch.uint8)
        return self._bytes[:need].view(dtype)


def reduce_into(out: Tensor, terms: list[Tensor], op: Reduction, scratch: Scratch) -> None:
    """Combine `terms` (one a rank, each [n], of one dtype) into `out` [n].

    16-bit floats are summed in fp32 and rounded once (not at all where `out` is fp32). `out` may be the
    memory of one of the terms.
    """
    dtype = terms[0].dtype
    wide = dtype in (torch.bfloat16, torch.float16) and op in ("sum", "mean")
    if len(terms) == 1:
        if out.data_ptr() != terms[0].data_ptr():
            out.copy_(terms[0])
    elif len(terms) == 2 and op != "mean" and out.dtype == dtype:
        # torch adds two 16-bit numbers in fp32 and rounds once.
        _PAIR[op](*terms, out=out)
    else:
        for start in range(0, out.numel(), BLOCK):
            part = slice(start, start + BLOCK)
            combine = _widened if wide else _blockwise
            combine(out[part], [term[part] for term in terms], op, scratch)


def _blockwise(out: Tensor, terms: list[Tensor], op: Reduction, scratch: Scratch) -> None:
    total = terms[0]
    for term in terms[1:-1]:
        # Not in `out`, which may be a term still to come.
        held = scratch.get(out.numel(), total.dtype)
        _PAIR[op](total, term, out=held)
        total = held
    _PAIR[op](total, terms[-1], out=out)
    if op == "mean":
        out.div_(len(terms))


def _widened(out: Tensor, terms: list[Tensor], op: Reduction, scratch: Scratch) -> None:
    total, term_wide = scratch.get(2 * out.numel(), torch.float32).view(2, -1)
    total.copy_(terms[0])
    for term in terms[1:]:
        total.add_(term_wide.copy_(term))
    if op == "mean":
        total.div_(len(terms))
    out.copy_(total)
