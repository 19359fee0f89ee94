"""Gradients of whole parameters, into rows, over the ranks, onto the pieces.

A hook at each parameter takes its gradient as soon as backward has it, copies it into the row's buffer and
drops it. When a row is complete its reduce-scatter starts, beside the rest of the backward. Reductions are in
a fixed order, and what a rank did not use is sent as zero at the end of backward, so that ranks that take
different paths do not hang; which parameters some rank used is then agreed in one small reduction.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring import comm
from mainspring.comm import Counter, Pending
from mainspring.parallel.strategy import Strategy
from mainspring.parallel.zero.gradients import PieceGradient
from mainspring.parallel.zero.placement import Placement
from mainspring.parallel.zero.scale import LossScaler
from mainspring.parallel.zero.unit import Row, Slot, Unit


class Reducer:
    """Reduces the gradients of rows in their order.

    Args:
        rows: with their units, in the order of reduction; the same on every rank.
        group: the ranks that go through the model together; None where there is one.
        reduce: how the gradients of ranks are joined.
        placement: where the reduced gradients stay.
        counter: told the traffic, under "gradients" and "flags".
        scaler: what gradients have been multiplied by, in fp16.
        tensor_group: the ranks that hold other parts of the same parameters, and skip a step with this one.
        strategy: whose rows they are.
    """

    def __init__(
        self,
        rows: list[tuple[Unit, Row]],
        group: dist.ProcessGroup | None,
        reduce: Literal["mean", "sum"],
        placement: Placement,
        counter: Counter,
        scaler: LossScaler | None = None,
        tensor_group: dist.ProcessGroup | None = None,
        *,
        strategy: Strategy,
    ) -> None:
        self.rows = rows
        self._strategy = weakref.ref(strategy)
        self._deciding = [one for one in (group, tensor_group) if one is not None]
        self.scaler = scaler
        self._group, self._op = group, reduce
        self._world = 1 if group is None else dist.get_world_size(group)
        self._placement, self._counter = placement, counter
        self._next = 0
        self._send = True
        self._open: deque[tuple[Row, Tensor, Pending | None]] = deque()
        self._spare: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        self._sums: dict[Row, Tensor] = {}
        """Reduced gradients of this backward, not yet shown on the pieces."""

    def begin(self, *, send: bool) -> None:
        """A backward begins. Without `send` gradients are only added up on this rank."""
        self._next, self._send = 0, send
        for _, row in self.rows:
            row.pending = sum(slot.piece.requires_grad for slot in row.slots)
            row.nested = False

    def arrive(self, row: Row, slot: Slot, nested: bool) -> None:
        """A whole parameter has its gradient; take it."""
        assert slot.full is not None and slot.full.grad is not None
        gradient = slot.full.grad
        slot.full.grad = None
        if gradient.layout is not torch.strided:
            gradient = gradient.to_dense()
        if row.sum is None:
            row.sum = self._buffer(row)
        if slot.arrived or slot.summed:
            if slot.summed and row.sum.element_size() < 4:
                row.sum = row.sum.float()  # further micro-batches are added up in fp32
            row.view(row.sum, slot).add_(gradient)
        else:
            row.view(row.sum, slot).copy_(gradient)
        row.nested |= nested
        if not slot.arrived:
            slot.arrived = True
            row.pending -= 1
        if row.pending == 0 and self._send:
            self._start_complete()

    def finish(self, *, show: bool = False) -> None:
        """The backward is over: send what is left, agree who used what, show the pieces their gradients.

        With `show` pieces show this rank's own where nothing is sent.
        """
        if not self._send:
            for _, row in self.rows:
                for slot, place in zip(row.slots, row.shard.places, strict=True):
                    slot.summed |= slot.arrived
                    slot.arrived = False
                    if show and slot.summed and row.sum is not None:
                        slot.piece.grad = row.own(row.sum)[place]
            return
        while self._next < len(self.rows):
            self._start(*self.rows[self._next])
        flags = self._start_flags()
        while self._open:
            self._finish_oldest()
        self._wait_flags(*flags)
        if self.scaler is not None:
            self._find_overflow(self.scaler)
        for row, total in self._sums.items():
            for slot, place in zip(row.slots, row.shard.places, strict=True):
                if slot.used or slot.piece.grad is not None:
                    slot.piece.grad = self._shown(row, slot, total[place])
                slot.arrived = slot.summed = False
        self._sums.clear()
        self._spare.clear()

    def _shown(self, row: Row, slot: Slot, gradient: Tensor) -> Tensor:
        """What a piece has for a gradient; one of which other ranks have the rest knows them."""
        strategy = self._strategy()
        if strategy is None or (row.sharers.world == 1 and slot.cut is None):
            return gradient
        return PieceGradient.of(gradient, slot.piece, strategy)

    def own_sum(self, row: Row) -> Tensor | None:
        """This rank's gradients of a row [padded] since they were last sent or used; None without any."""
        if row.sum is None:
            return None
        for slot in row.slots:
            if not slot.summed:
                row.view(row.sum, slot).zero_()
        row.sum[row.layout.numel :].zero_()
        return row.sum

    def forget_stepped(self) -> None:
        """Drop gradients that were shown and have been taken off the pieces since: a step was left out."""
        for _, row in self.rows:
            shown = [slot for slot in row.slots if slot.summed]
            if shown and all(slot.piece.grad is None for slot in shown):
                row.sum = None
                for slot in shown:
                    slot.summed = False

    def abandon(self) -> None:
        """Forget a backward that an error ended."""
        while self._open:
            _, _, work = self._open.popleft()
            if work is not None:
                work.wait()
        self._sums.clear()
        self._spare.clear()
        for _, row in self.rows:
            row.sum = None
            for slot in row.slots:
                slot.arrived = slot.summed = False

    def _start_complete(self) -> None:
        while self._next < len(self.rows):
            unit, row = self.rows[self._next]
            if row.pending or row.nested:
                return
            self._start(unit, row)

    def _start(self, unit: Unit, row: Row) -> None:
        whole = self._buffer(row) if row.sum is None else row.sum
        for slot in row.slots:
            if row.sum is None or not (slot.arrived or slot.summed):
                row.view(whole, slot).zero_()
        whole[row.layout.numel :].zero_()
        if whole.dtype != row.shard.compute_dtype:
            whole = self._buffer(row).copy_(whole)
        row.sum = None
        own, work = whole, None
        sharers = row.sharers
        if sharers.world > 1:
            own = torch.empty(row.layout.part, dtype=whole.dtype, device=whole.device)
            where = f"reduce {unit.name or 'the root'}"
            work = comm.reduce_scatter(own, whole, name=where, op=self._op, group=sharers.group)
            payload = whole.numel() * whole.element_size()
            self._counter.add("gradients", "reduce_scatter", payload, sharers.world)
        self._next += 1
        row.sum, self._sums[row] = whole, own
        self._open.append((row, own, work))
        while len(self._open) > 1:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        row, own, work = self._open.popleft()
        if work is not None:
            work.wait()
        assert row.sum is not None
        if row.sum is not own:
            self._spare.setdefault((row.sum.dtype, row.sum.device), []).append(row.sum)
        row.sum = None
        if row.sharers.factor != 1.0:
            own.mul_(row.sharers.factor)
        if self.scaler is not None:
            own = own.float().div_(self.scaler.scale)
        self._sums[row] = self._placement.keep(row.shard, own, _held(row))

    def _start_flags(self) -> tuple[Tensor, Pending | None]:
        flags = torch.tensor(
            [float(slot.arrived or slot.summed) for _, row in self.rows for slot in row.slots],
            device=self.rows[0][1].device if self.rows else None,
        )
        if self._world == 1:
            return flags, None
        group, counter = self._group, self._counter
        return flags, comm.all_reduce(flags, name="flags", group=group, counter=counter, async_op=True)

    def _wait_flags(self, flags: Tensor, work: Pending | None) -> None:
        if work is not None:
            work.wait()
        values = iter(flags.tolist())
        for _, row in self.rows:
            for slot in row.slots:
                slot.used = next(values) > 0

    def _find_overflow(self, scaler: LossScaler) -> None:
        """Agree on the first parameter whose gradient is not finite on some rank."""
        order = [(row, i) for _, row in self.rows for i in reversed(range(len(row.slots)))]  # of backward
        finite = [self._sums[row][row.shard.places[i]].isfinite().all() for row, i in order]
        overflowed = torch.stack(finite).logical_not().float() if finite else torch.zeros(0)
        for group in self._deciding:
            comm.all_reduce(overflowed, name="overflow", group=group, counter=self._counter)
        scaler.find(overflowed, [row.slots[i].name for row, i in order])

    def _buffer(self, row: Row) -> Tensor:
        """Room for a row of gradients; values are undefined."""
        key = (row.shard.compute_dtype, row.device)
        spare = self._spare.get(key, [])
        for index, base in enumerate(spare):
            whole = base if base._base is None else base._base
            if whole.numel() >= row.layout.padded:
                spare.pop(index)
                return whole[: row.layout.padded]
        return torch.empty(row.layout.padded, dtype=key[0], device=key[1])


def _held(row: Row) -> Tensor | None:
    """The gradient [part] that the pieces have from before; None where they have none."""
    pieces, places = row.shard.pieces, row.shard.places
    if all(piece.grad is None for piece in pieces):
        return None
    held = row.shard.gradient
    if held is None:  # somebody put others there
        held = torch.zeros(row.shard.numel, dtype=torch.float32, device=row.shard.flat.device)
        for piece, place in zip(pieces, places, strict=True):
            if piece.grad is not None:
                held[place].copy_(piece.grad)
    for piece, place in zip(pieces, places, strict=True):
        if piece.grad is None:
            held[place].zero_()
    return held
