"""Parameters that stages of several ranks use: lent to the others each step, their gradients given back.

A shared parameter moves twice a step between its keeper and each borrower, once each way: what an all-reduce
of two copies' gradients moves (Shoeybi et al. 2019 tie embeddings so), with its optimizer states kept once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring.parallel.pipeline.keep import Kept, Place
from mainspring.parallel.pipeline.mail import Mail, Sheets, Tag, sheets_of

VALUES, GRADIENTS = "shared parameters", "shared gradients"
"""Names of the traffic."""


class Loans:
    """What a rank lends and borrows.

    Args:
        kept: says what.
        mail: carries it.
    """

    def __init__(self, kept: Kept, mail: Mail) -> None:
        self._kept, self._mail = kept, mail
        self._open: set[int] = set()
        """Lenders of whom nothing has come yet in this step."""
        self._due: set[int] = set()
        """Borrowers to whom nothing has gone yet."""
        self._sums: dict[int, list[Tensor | None]] = {}

    def begin(self) -> None:
        """A step begins."""
        self._open, self._due = set(self._kept.borrowed), set(self._kept.lent)
        self._sums = {}

    def lend(self, stage: int) -> None:
        """A stage's first forward is over; what it computed with is at hand: send what others wait for."""
        for peer in sorted(p for p in self._due if self._kept.lending_stage[p] == stage):
            self._due.remove(peer)
            values = [_at(place) for place in self._kept.lent[peer]]
            self._mail.describe(Tag.LOAN, ("loan", self._here, peer), values, peer)
            self._mail.send(self._mail.posts(VALUES, Tag.LOAN, values, peer))

    def borrow(self, stage: int) -> None:
        """A stage is about to compute: have what it borrows."""
        for peer in sorted(p for p in self._open if self._kept.borrowing_stage[p] <= stage):
            self._open.remove(peer)
            places = self._places(peer)
            sheets = self._mail.expect(Tag.LOAN, ("loan", peer, self._here), len(places), peer)
            ops, values = self._mail.takes(Tag.LOAN, sheets, peer)
            self._mail.receive(ops)
            for same, value, sheet in zip(places, values, sheets, strict=True):
                assert value is not None and sheet is not None
                value.requires_grad_(sheet.trained)
                for module, leaf in same:
                    module.__dict__[leaf] = value

    def leaves(self) -> list[Tensor]:
        """What is borrowed just now and wants a gradient."""
        found = {id(t): t for peer in self._kept.borrowed for t in self._borrowed(peer)}
        return [t for t in found.values() if t.requires_grad and not t.is_meta]

    def collect(self) -> None:
        """A backward is over: add up the gradients of what is borrowed, in fp32."""
        for peer in self._kept.borrowed:
            leaves = self._borrowed(peer)
            sums = self._sums.setdefault(peer, [None] * len(leaves))
            for index, leaf in enumerate(leaves):
                if leaf.grad is None:
                    continue
                before = sums[index]
                sums[index] = leaf.grad.float() if before is None else before.add_(leaf.grad)
                leaf.grad = None

    def give_back(self, stage: int) -> None:
        """A stage's last backward is over: return gradients that no more will be added to."""
        for peer, first in self._kept.borrowing_stage.items():
            if first != stage:
                continue
            sums = self._sums.pop(peer, [])
            gradients = [
                _same_as(leaf, total) for leaf, total in zip(self._borrowed(peer), sums, strict=True)
            ]
            there = [g for g in gradients if g is not None]
            if there:
                self._mail.send(self._mail.posts(GRADIENTS, Tag.RETURN, there, peer))

    def join(self, stage: int, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Hang the returned gradients of what a stage lends on what it hands on, in its last micro-batch."""
        found = list(tensors)
        for peer, first in sorted(self._kept.lending_stage.items()):
            if first != stage:
                continue
            lent = [value for value in map(_at, self._kept.lent[peer]) if value.requires_grad]
            where = next((i for i, t in enumerate(found) if t is not None and t.is_floating_point()), None)
            if lent and where is not None:
                found[where] = _Returned.apply(self, peer, found[where], *lent)  # type: ignore[no-untyped-call]
        return found

    def returned(self, peer: int, sheets: Sheets) -> list[Tensor | None]:
        """The gradients that a borrower gives back."""
        ops, gradients = self._mail.takes(Tag.RETURN, sheets, peer)
        self._mail.receive(ops)
        return gradients

    @property
    def _here(self) -> int:
        return torch.distributed.get_rank(self._mail.group)

    def _places(self, peer: int) -> list[list[Place]]:
        """Where what is borrowed of `peer` stands, the places of one tensor together."""
        by_tensor: dict[int, list[Place]] = {}
        for module, leaf in self._kept.borrowed[peer]:
            by_tensor.setdefault(id(module.__dict__[leaf]), []).append((module, leaf))
        return list(by_tensor.values())

    def _borrowed(self, peer: int) -> list[Tensor]:
        return [same[0][0].__dict__[same[0][1]] for same in self._places(peer)]


class _Returned(torch.autograd.Function):
    """Hands `x` on; in backward, the gradients that a borrower computed go to the parameters it borrowed."""

    @staticmethod
    def forward(ctx: Any, loans: Loans, peer: int, x: Tensor, *lent: Tensor) -> Tensor:
        ctx.loans, ctx.peer, ctx.sheets = loans, peer, sheets_of(lent)
        ctx.got = None
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        if ctx.got is None:  # a backward in two halves comes by twice
            ctx.got = ctx.loans.returned(ctx.peer, ctx.sheets)
        return (None, None, gradient, *ctx.got)


def _at(place: Place) -> Tensor:
    module, leaf = place
    parameter = module._parameters[leaf]
    assert parameter is not None
    return parameter


def _same_as(leaf: Tensor, total: Tensor | None) -> Tensor | None:
    """A returned gradient: zero where a borrower that trains a tensor did not use it."""
    if not leaf.requires_grad:
        return None
    return torch.zeros_like(leaf) if total is None else total.to(leaf.dtype)
