"""An optimizer's step over shards whose masters and states are on disk, a stretch of a shard at a time.

Any optimizer that treats every element by itself can be run on any part of a parameter: the pieces are given
the stretch's masters, gradients and states, the optimizer steps just these, and the stretch is written back
while the next is computed and the one after that is read (Rajbhandari et al. 2021, arXiv 2104.07857, section
5.2). What a stretch shares with the others of its parameter (the count of steps) is put back before each.

LAMB steps a parameter as far as its norm and that of its direction say: it goes over all stretches twice. The
first time it makes moments, which are written, and sums; the second time weights, and only these are written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mainspring.errors import PlanError
from mainspring.parallel.disk.blocks import BLOCK
from mainspring.parallel.disk.buffers import Arena, aligned, round_up
from mainspring.parallel.disk.store import Store, padded_bytes
from mainspring.parallel.disk.stretch import (
    COMPUTE,
    MASTER,
    Kept,
    Lent,
    Part,
    Stretch,
    is_away,
    leave_states,
    lend_states,
    parts_of,
    rows_of,
)
from mainspring.parallel.zero.placement import Shard

ELEMENTWISE = (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.ASGD,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
)
"""Optimizers of torch whose update of an element needs nothing of other elements."""

Update = Callable[[], None]
"""Makes one pass over what an optimizer has parameters and gradients of at the moment."""


def file_of(shard: Shard, kind: str) -> str:
    """Name in the store of one kind of tensor of a shard."""
    return f"{shard.name or 'root'}/{kind}"


def check_elementwise(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer whose update of an element may need others; one may say so itself with an attribute
    `elementwise`, or that it goes over all elements twice with `two_passes` (`optim.Lamb`).

    Raises:
        PlanError: it cannot be run a stretch at a time.
    """
    whole = not getattr(optimizer, "elementwise", type(optimizer) in ELEMENTWISE)
    if whole and not getattr(optimizer, "two_passes", False):
        known = ", ".join(kind.__name__ for kind in ELEMENTWISE)
        raise PlanError(
            f"{type(optimizer).__name__} may need a whole parameter for its update, and the disk tier steps "
            f"parts of one at a time. Use one of {known}; or, if it updates each element from its own "
            "gradient and states alone, let it say so with an attribute elementwise = True; or set "
            "plan.offload to another tier"
        )


class Stepper:
    """Runs steps of optimizers over shards, and keeps the states of their pieces on disk.

    Args:
        store: where they go.
        arena: buffers of at least two blocks.
    """

    def __init__(self, store: Store, arena: Arena) -> None:
        self._store, self._arena = store, arena
        if arena.nbytes % (2 * BLOCK):
            raise PlanError(f"buffers of {arena.nbytes:,} bytes; give them a multiple of {2 * BLOCK:,}")
        self._kept: dict[nn.Parameter, Kept] = {}
        self._rows: dict[str, dict[str, torch.dtype]] = {}
        self._written: set[tuple[str, int]] = set()

    def adopt(self, shard: Shard) -> None:
        """Write the masters of a shard, which it holds, and let go of them."""
        self._create(shard, MASTER, shard.dtype)
        if shard.compute_dtype != shard.dtype and shard.copy is None:
            self._create(shard, COMPUTE, shard.compute_dtype)
        for stretch in self._stretches(shard):
            stretch.buffers[MASTER] = self._arena.take()
            stretch.row(MASTER, shard.dtype).copy_(shard.flat[stretch.start : stretch.stop])
            self._write(stretch)
        shard.detach()

    def step(self, optimizer: torch.optim.Optimizer, shards: Sequence[Shard]) -> None:
        """Step the pieces that have gradients, which stay as they are; masters and states go to disk.

        Raises:
            PlanError: the optimizer's update of an element may depend on others.
            DiskError: reading or writing failed; then the states are of no use any more.
        """
        check_elementwise(optimizer)
        self.absorb(optimizer, shards)
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        todo = [
            stretch
            for shard in shards
            if any(id(p) in mine and p.grad is not None and p.numel() for p in shard.pieces)
            for stretch in self._stretches(shard)
        ]
        groups = optimizer.param_groups
        two: Any = optimizer if getattr(optimizer, "two_passes", False) else None
        try:
            if two is None:
                self._run(optimizer, todo, mine, lambda: _bare_step(optimizer))
            else:
                self._run(optimizer, todo, mine, two.measure, masters=False)
                two.agree()
                self._run(optimizer, todo, mine, two.advance, states=False)
        except BaseException as error:
            self._store.fail(error)  # some stretches are a step ahead of the others
            raise
        finally:
            optimizer.param_groups = groups

    def absorb(self, optimizer: torch.optim.Optimizer, shards: Sequence[Shard]) -> None:
        """Write away the states of pieces that are in memory, as after loading them."""
        for shard in shards:
            rows = (row for piece in shard.pieces for row in rows_of(optimizer, piece).values())
            if any(row.numel() > 0 and not is_away(row) for row in rows):
                with self.opened(shard, optimizer, absorbing=True):
                    pass

    @contextmanager
    def opened(
        self,
        shard: Shard,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        write: bool = True,
        absorbing: bool = False,
    ) -> Iterator[None]:
        """Hold a whole shard in memory: its masters, and the states of its pieces in `optimizer`."""
        if optimizer is not None and not absorbing:
            self.absorb(optimizer, [shard])
        stretch = Stretch(shard, 0, shard.numel, private=True)
        kinds = {MASTER: shard.dtype, **(self._rows.get(shard.name, {}) if optimizer else {})}
        for kind, dtype in kinds.items():
            self._load(stretch, kind, dtype)
        shard.attach(stretch.row(MASTER, shard.dtype))
        parts = parts_of(stretch)
        if optimizer is not None and not absorbing:
            for part in parts:
                lend_states(optimizer, stretch, part, self._of(part.piece))
        try:
            yield
            if optimizer is not None:
                self._take_back(optimizer, stretch, parts)
        finally:
            shard.detach()
            if optimizer is not None:
                for part in parts:
                    leave_states(optimizer, part, self._of(part.piece))
        if write:
            shard.copied = False
            if file_of(shard, COMPUTE) in self._store:
                stretch.buffers[COMPUTE] = aligned(padded_bytes(shard.numel, shard.compute_dtype))
                stretch.row(COMPUTE, shard.compute_dtype).copy_(stretch.row(MASTER, shard.dtype))
            for kind, buffer in stretch.buffers.items():
                self._store.write(file_of(shard, kind), buffer).result()
                self._written.update((file_of(shard, kind), s.start) for s in self._stretches(shard))

    def _run(
        self,
        optimizer: torch.optim.Optimizer,
        todo: list[Stretch],
        mine: set[int],
        update: Update,
        *,
        masters: bool = True,
        states: bool = True,
    ) -> None:
        """One pass over all stretches; what it has changed is written."""
        groups = optimizer.param_groups
        options = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        cast = not getattr(optimizer, "takes_low_gradients", False)
        each = self._each(todo)
        ahead, begun = self._arena.count // each, 0
        for index, stretch in enumerate(todo):
            # Others are read as soon as writes have given their buffers back; only this one is waited for.
            while begun < min(len(todo), index + ahead) and (begun <= index or self._arena.free >= each):
                self._read(todo[begun])
                begun += 1
            for task in stretch.reads:
                task.result()
            parts = [p for p in parts_of(stretch) if id(p.piece) in mine and p.piece.grad is not None]
            for part in parts:
                lend_states(optimizer, stretch, part, self._of(part.piece))
            present = {id(part.piece) for part in parts}
            with Lent(stretch, parts, cast=cast):
                optimizer.param_groups = _groups(groups, options, present)
                if optimizer.param_groups:
                    update()
                self._take_back(optimizer, stretch, parts)
            for part in parts:
                leave_states(optimizer, part, self._of(part.piece))
            self._write(stretch, masters=masters, states=states)
            stretch.buffers, stretch.reads = {}, []  # another pass begins anew
        optimizer.param_groups = groups

    def _each(self, todo: list[Stretch]) -> int:
        """Buffers that a stretch takes while it is computed, at most."""
        each = max((self._buffers(stretch.shard) for stretch in todo), default=1)
        if each > self._arena.count:
            raise PlanError(
                f"a step needs {each} buffers at once and the disk tier has {self._arena.count}; give it more"
            )
        return each

    def _buffers(self, shard: Shard) -> int:
        rows = self._rows.get(shard.name)
        return 1 + (4 if rows is None else len(rows)) + (shard.compute_dtype != shard.dtype)

    def _stretches(self, shard: Shard) -> list[Stretch]:
        # Four bytes an element fill a buffer, and two are a whole number of blocks.
        step = self._arena.nbytes // max(4, shard.dtype.itemsize)
        starts = range(0, shard.numel, step)
        return [Stretch(shard, start, min(start + step, shard.numel)) for start in starts]

    def _read(self, stretch: Stretch) -> None:
        shard = stretch.shard
        for kind, dtype in {MASTER: shard.dtype, **self._rows.get(shard.name, {})}.items():
            buffer = stretch.buffers[kind] = self._arena.take()
            file = file_of(shard, kind)
            if (file, stretch.start) in self._written:
                pages = stretch.pages(kind, dtype)
                stretch.reads.append(self._store.read(file, pages, stretch.start))
            else:
                buffer.zero_()

    def _write(self, stretch: Stretch, *, masters: bool = True, states: bool = True) -> None:
        """Write masters (and what is made of them) or states or both; buffers go back to the arena."""
        shard, weights = stretch.shard, stretch.row(MASTER, stretch.shard.dtype)
        if masters and shard.copy is not None:
            shard.copy[stretch.start : stretch.stop].copy_(weights)
            shard.copied = stretch.stop == shard.numel
        if masters and file_of(shard, COMPUTE) in self._store:
            stretch.buffers[COMPUTE] = self._arena.take()
            stretch.row(COMPUTE, shard.compute_dtype).copy_(weights)
        kinds = {MASTER: shard.dtype, COMPUTE: shard.compute_dtype, **self._rows.get(shard.name, {})}
        for kind, buffer in stretch.buffers.items():
            if not (masters if kind in (MASTER, COMPUTE) else states):
                self._arena.give(buffer)
                continue
            file = file_of(shard, kind)
            self._written.add((file, stretch.start))
            pages = stretch.pages(kind, kinds[kind])
            self._store.write(file, pages, stretch.start).add_done_callback(
                lambda _, buffer=buffer: self._arena.give(buffer)  # type: ignore[misc]
            )

    def _load(self, stretch: Stretch, kind: str, dtype: torch.dtype) -> None:
        """Read a whole tensor; what of it was never written is zero."""
        shard, file = stretch.shard, file_of(stretch.shard, kind)
        buffer = stretch.buffers[kind] = aligned(padded_bytes(shard.numel, dtype))
        tasks = [
            self._store.read(
                file, buffer[s.start * dtype.itemsize : round_up(s.stop * dtype.itemsize)], s.start
            )
            for s in self._stretches(shard)
            if (file, s.start) in self._written
        ]
        for task in tasks:
            task.result()

    def _take_back(self, optimizer: torch.optim.Optimizer, stretch: Stretch, parts: list[Part]) -> None:
        """Keep the states that the optimizer has now, as rows of the stretch."""
        for part in parts:
            rows, kept = rows_of(optimizer, part.piece), self._of(part.piece)
            for kind, value in rows.items():
                kept.rows[kind] = value.dtype
                self._make_room(stretch, kind, value.dtype)
                row = stretch.row(kind, value.dtype)[part.here]
                if row.data_ptr() != value.data_ptr() and not is_away(value):
                    row.copy_(value)
            state = optimizer.state.get(part.piece)
            if part.is_last and state:
                kept.scalars = {k: v for k, v in state.items() if k not in rows}

    def _make_room(self, stretch: Stretch, kind: str, dtype: torch.dtype) -> None:
        known = self._rows.setdefault(stretch.shard.name, {})
        if kind not in known:
            if not 2 <= dtype.itemsize <= max(4, stretch.shard.dtype.itemsize):
                raise PlanError(f"the disk tier keeps states of 2 or 4 bytes an element; {kind} is {dtype}")
            known[kind] = dtype
            self._create(stretch.shard, kind, dtype)
        if kind not in stretch.buffers:
            nbytes = padded_bytes(stretch.shard.numel, dtype)
            buffer = aligned(nbytes) if stretch.private else self._arena.take().zero_()
            stretch.buffers[kind] = buffer

    def _create(self, shard: Shard, kind: str, dtype: torch.dtype) -> None:
        if file_of(shard, kind) not in self._store:
            self._store.create(file_of(shard, kind), shard.numel, dtype)

    def _of(self, piece: nn.Parameter) -> Kept:
        return self._kept.setdefault(piece, Kept())


def _groups(
    groups: list[dict[str, Any]], options: list[dict[str, Any]], present: set[int]
) -> list[dict[str, Any]]:
    """The parameter groups with only those parameters whose id is `present`."""
    some = []
    for group, kept in zip(groups, options, strict=True):
        parameters = [p for p in group["params"] if id(p) in present]
        if parameters:
            some.append({**copy.copy(kept), "params": parameters})
    return some


@torch.no_grad()
def _bare_step(optimizer: torch.optim.Optimizer) -> None:
    """Step without the hooks, which belong to the step as a whole."""
    step: Any = type(optimizer).step
    getattr(step, "__wrapped__", step)(optimizer)
