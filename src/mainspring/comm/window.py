"""Buffers in shared memory that other ranks read in place."""

from __future__ import annotations

import mmap

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm.channel import channel
from mainspring.comm.memory import HEADER, NotShared, share
from mainspring.comm.peers import DONE, PUBLISHED
from mainspring.comm.sums import Reduction, Scratch, reduce_into
from mainspring.errors import CollectiveError


class Window:
    """One buffer on each rank of a group, which the other ranks read without its owner's help.

    It is used in rounds; every rank does the same in each:

        window.acquire()                # until all are done with the last round: now `local` may be written
        window.local.copy_(...)
        window.publish()                # it stays as it is until the next `acquire`
        window.read(1, 0, 100, out)     # waits until rank 1 has published this round
        window.release()                # this rank will not read in this round any more

    Between its `publish` and its `release` a rank may read any number of times, at any time, and ranks need
    not read the same. Traffic is not counted: what it stands for is known to the caller (`Counter.add`).

    Made by `mainspring.comm.shared.window`.
    """

    def __init__(
        self, numel: int, dtype: torch.dtype, *, name: str, group: dist.ProcessGroup | None = None
    ) -> None:
        self._channel = channel(group)
        transport = self._channel.begin(group, torch.device("cpu"), f"window {name!r}")
        if transport is None:
            raise NotShared(self._channel.why_not)
        nbytes = numel * dtype.itemsize
        self._memory = memory = share(group, nbytes + -nbytes % 64)
        self._peers, self.name = transport.peers, name
        self._buffers = [
            memory.data(rank)[: memory.data(rank).numel() // dtype.itemsize * dtype.itemsize].view(dtype)
            for rank in range(memory.size)
        ]
        self.rank, self.size = memory.rank, memory.size
        self.local: Tensor = self._buffers[self.rank][:numel]
        """This rank's buffer [numel], in shared memory, zero at first."""
        self._others = [rank for rank in range(self.size) if rank != self.rank]
        self._round = 0
        self._scratch = Scratch()

    def publish(self) -> None:
        """Let the others read `local`; begins a round."""
        self._peers.enter(f"publish of window {self.name!r}", compare=self._channel.debug)
        self._round += 1
        self._memory.words[self.rank][PUBLISHED] = self._round

    def ready(self, rank: int) -> bool:
        """Whether `rank` has published this round, so that reading it will not wait."""
        return self._memory.words[rank][PUBLISHED] >= self._round

    def of(self, rank: int, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the buffer of `rank` in this round, in place: to be read only, until
        `release`.

        Raises:
            CollectiveError: `rank` has died or did not publish within the time-out.
        """
        if self._memory.words[self.rank][DONE] >= self._round:
            raise CollectiveError(f"window {self.name!r} is read outside a round: publish first")
        what = f"reading window {self.name!r} of rank {rank}"
        self._peers.wait(PUBLISHED, self._round, (rank,), what, self._memory)
        return self._buffers[rank][start:stop]

    def read(self, rank: int, start: int, stop: int, out: Tensor) -> None:
        """Copy elements [start, stop) of the buffer of `rank` into `out` [stop - start].

        Raises:
            CollectiveError: `rank` has died or did not publish within the time-out.
        """
        out.detach().copy_(self.of(rank, start, stop))

    def forget(self, rank: int, start: int, stop: int) -> None:
        """Give back the pages of this process that show elements [start, stop) of the buffer of `rank`: what
        another rank holds counts as memory of whoever looks at it. The elements stay and may be read again.
        """
        size = self._buffers[rank].element_size()
        first = HEADER + start * size
        first -= first % mmap.PAGESIZE
        self._memory.maps[rank].madvise(mmap.MADV_DONTNEED, first, HEADER + stop * size - first)

    def reduce(self, start: int, stop: int, out: Tensor, op: Reduction = "sum") -> None:
        """Combine elements [start, stop) of all ranks' buffers in rank order into `out` [stop - start].

        16-bit floats are summed in fp32 and rounded once (not at all into an fp32 `out`). `out` may be this
        rank's own elements, if no other rank reads those in this round.

        Raises:
            CollectiveError: a rank has died or did not publish within the time-out.
        """
        terms = [self.of(rank, start, stop) for rank in range(self.size)]
        reduce_into(out.detach(), terms, op, self._scratch)

    def release(self) -> None:
        """Say that this rank will not read in this round any more."""
        self._memory.words[self.rank][DONE] = self._round

    def acquire(self) -> None:
        """Wait until nobody reads `local` any more.

        Raises:
            CollectiveError: a rank has died or did not release within the time-out.
        """
        what = f"writing window {self.name!r}"
        self._peers.wait(DONE, self._round, self._others, what, self._memory)
