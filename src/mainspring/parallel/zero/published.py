"""Shards that the other ranks of the host read where they are: gathers of stage 3 without a partner.

All shards of a rank, in the dtype of computation, lie in one window (`comm.Window`). An optimizer writes its
16-bit weights there as it makes them, fp32 masters live there, and a rank that needs a unit copies the parts
of the others when it needs them: nothing is sent, nobody is waited for, and nobody takes part in gathers of
blocks that it skips. Values change only between rounds; a round is opened by all ranks together.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

import torch
from torch import Tensor

from mainspring import comm
from mainspring.comm import Window
from mainspring.parallel.zero.placement import Placement
from mainspring.parallel.zero.unit import Row


class Published:
    """The window with the shards of `rows`, which are the same on every rank.

    Args:
        rows: of all units.
        window: bytes; holds the parts of all rows one after the other, each from the start of a page.
        placement: where masters are.
    """

    def __init__(self, rows: Iterable[Row], window: Window, placement: Placement) -> None:
        self.rows, self._window, self._placement = list(rows), window, placement
        self._starts = dict(zip(self.rows, _starts(self.rows)[:-1], strict=True))
        self._open = False

    @classmethod
    def of(cls, rows: Iterable[Row], placement: Placement) -> Published | None:
        """Move the shards of `rows` to memory that their ranks share, as a collective of these; None where
        there is no such memory, where masters are elsewhere (`Placement.resident`), or where rows are cut
        between different ranks (experts)."""
        rows = list(rows)
        group = rows[0].sharers.gathers
        if not placement.resident or any(
            row.device.type != "cpu" or row.sharers.gathers is not group for row in rows
        ):
            return None
        window = comm.shared.window(_starts(rows)[-1], torch.uint8, name="shards", group=group)
        return None if window is None else cls(rows, window, placement)

    def open(self) -> None:
        """Have the present values readable; all ranks do so alike. Nothing where a round is open already."""
        if self._open:
            return
        self._window.acquire()
        for row in self.rows:
            self._refresh(row)
        self._window.publish()
        self._open = True

    def close(self) -> None:
        """This rank will not read in this round any more."""
        if self._open:
            self._window.release()
            self._open = False

    def settle(self) -> None:
        """Close, and wait until nobody reads: masters and copies may be changed."""
        self.close()
        self._window.acquire()

    def read(self, row: Row, whole: Tensor) -> None:
        """Fill `whole` [padded] with the parts of all ranks."""
        start, part = self._starts[row], row.layout.part
        stop = start + part * whole.dtype.itemsize
        for source in range(self._window.size):
            piece = self._window.of(source, start, stop).view(whole.dtype)
            whole[source * part : (source + 1) * part].copy_(piece)
            if source != row.sharers.rank:
                self._window.forget(source, start, stop)

    def _refresh(self, row: Row) -> None:
        """Bring this rank's part of a row up to date."""
        shard = row.shard
        start = self._starts[row]
        here = self._window.local[start : start + shard.numel * shard.compute_dtype.itemsize]
        local = here.view(shard.compute_dtype)
        if not shard.numel:
            return
        if shard.dtype == shard.compute_dtype:
            if shard.flat.data_ptr() != local.data_ptr():
                self._placement.before_gather(shard, local)
                shard.attach(local)
            return
        if shard.copy is None or shard.copy.data_ptr() != local.data_ptr():
            shard.copy, shard.copied = local, False
        if not (shard.copied and shard.copied_version == shard.flat._version):
            self._placement.before_gather(shard, local)
            shard.copied, shard.copied_version = True, shard.flat._version


def _starts(rows: Iterable[Row]) -> list[int]:
    """Where each row's part begins in the window, bytes, and where the last one ends."""
    starts = [0]
    for row in rows:
        nbytes = row.layout.part * row.shard.compute_dtype.itemsize
        starts.append(starts[-1] + nbytes + -nbytes % mmap.PAGESIZE)
    return starts
