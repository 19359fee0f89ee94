"""A mean over ranks in one bit an element, with error feedback at worker and server.

Tang et al. 2021 (1-bit Adam, arXiv 2102.02888, figure 3): each rank adds what it still owes to its values,
sends each rank the signs of its chunk, and keeps what the signs leave out; the rank of a chunk averages what
it got, adds what it owes itself, and sends the signs of that to all. Every rank ends with the same bits. With
x_i the values and e_i the errors of rank i, s the servers' errors put together and y the result, what comes
out is what went in:

    sum over steps of y  +  mean_i e_i  +  s  =  sum over steps of mean_i x_i

so `share` may move the errors about (all to the servers: one vector, whatever the number of ranks) without
losing any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm.collectives import Pending, all_gather, all_reduce, all_to_all
from mainspring.comm.counter import Counter
from mainspring.numerics.signs import Scale, compress, expand, message_bytes, worth_compiling


class CompressedMean:
    """Averages one flat buffer over the ranks of a group, again and again.

    Args:
        chunks: for each rank the lengths of the runs of the part that it serves; each has a scale of its own.
            The parts follow one another in the buffer. The same on every rank.
        group: the ranks; None of one process, where the buffer goes through both stages all the same.
        scale: length of a run's signs.
        device: where the buffer is.
        counter: told all traffic: an all-to-all and an all-gather of messages (`signs.message_bytes`), each
            filled up to the longest in the second.
    """

    def __init__(
        self,
        chunks: Sequence[Sequence[int]],
        *,
        group: dist.ProcessGroup | None = None,
        scale: Scale = "l1",
        device: torch.device | str = "cpu",
        counter: Counter | None = None,
    ) -> None:
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)
        assert len(chunks) == self.size, f"{len(chunks)} chunks for {self.size} ranks"
        self._group, self._scale, self._counter = group, scale, counter
        self._runs = [[n for n in runs if n] for runs in chunks]
        ends = [0, *accumulate(sum(runs) for runs in self._runs)]
        self.parts = [slice(a, b) for a, b in pairwise(ends)]
        """Where in the buffer the chunk of each rank lies."""
        # All chunks are packed alike, however small one is: calls of torch for each run of it would cost
        # more than the packing.
        self._native = worth_compiling(ends[-1], torch.device(device))
        self.worker_error = torch.zeros(ends[-1], device=device)
        """What this rank owes [total]."""
        self.server_error = torch.zeros(ends[self.rank + 1] - ends[self.rank], device=device)
        """What it owes for all [its chunk]."""

    @property
    def own(self) -> slice:
        """Where in the buffer this rank's chunk lies."""
        return self.parts[self.rank]

    @property
    def wire_bytes(self) -> int:
        """What this rank sends in one call, exactly."""
        lengths = [message_bytes(runs) for runs in self._runs]
        return sum(lengths) - lengths[self.rank] + (self.size - 1) * max(lengths)

    @torch.no_grad()
    def __call__(self, buffer: Tensor, *, name: str) -> None:
        """Replace `buffer` by what the ranks agree is its mean. fp32 [total], contiguous, in place.

        Args:
            buffer: this rank's values.
            name: what the traffic is for.
        """
        lengths = [message_bytes(runs) for runs in self._runs]
        most, own = max(lengths), lengths[self.rank]
        outbox = [_message(length, buffer) for length in lengths]
        inbox = [_message(own, buffer) for _ in outbox]
        for rank in range(self.size):
            if rank != self.rank:
                self._pack(buffer, rank, outbox[rank])
        sent = self._send(inbox, outbox, most, name)
        # What stays here is packed, and what comes of it unpacked, while the rest is on its way.
        self._pack(buffer, self.rank, outbox[self.rank])
        inbox[self.rank] = outbox[self.rank]
        if sent is not None:
            sent.wait()
        mean = buffer[self.own]
        for rank, message in enumerate(inbox):
            self._unpack(message, self.rank, mean, weight=1 / self.size, add=rank > 0)
        reply = _message(most, buffer)
        self._compress(mean, self.server_error, self.rank, reply[:own])
        replies, gathered = self._gather(reply, name)
        self._unpack(reply[:own], self.rank, mean)
        for work in gathered:
            work.wait()
        for rank, row in enumerate(replies.view(self.size, -1)):
            if rank != self.rank:
                self._unpack(row[: lengths[rank]], rank, buffer[self.parts[rank]])

    def _send(self, inbox: list[Tensor], outbox: list[Tensor], most: int, name: str) -> Pending | None:
        if self._group is None:
            return None
        return all_to_all(inbox, outbox, name=name, largest=most, group=self._group, counter=self._counter)

    def _gather(self, reply: Tensor, name: str) -> tuple[Tensor, list[Pending]]:
        if self._group is None:
            return reply, []
        replies = _message(self.size * reply.numel(), reply)
        return replies, all_gather(replies, reply, name=name, group=self._group, counter=self._counter)

    def _pack(self, buffer: Tensor, rank: int, message: Tensor) -> None:
        """What goes to a rank."""
        part = self.parts[rank]
        self._compress(buffer[part], self.worker_error[part], rank, message)

    def _compress(self, values: Tensor, error: Tensor, rank: int, message: Tensor) -> None:
        compress(values, error, self._runs[rank], message, scale=self._scale, native=self._native)

    def _unpack(
        self, message: Tensor, rank: int, out: Tensor, *, weight: float = 1.0, add: bool = False
    ) -> None:
        """A message of the chunk of a rank."""
        expand(message, self._runs[rank], out, weight=weight, add=add, native=self._native)

    @torch.no_grad()
    def share(self) -> Tensor:
        """Give everything that is owed to the servers, exactly up to rounding; every rank calls it.

        It costs one uncompressed all-reduce.

        Returns:
            What all ranks owe together [total], the same on each.
        """
        owed = self.worker_error
        owed[self.own].add_(self.server_error, alpha=self.size)
        if self._group is not None:
            all_reduce(owed, name="errors", op="mean", group=self._group, counter=self._counter)
        self.server_error.copy_(owed[self.own])
        self.worker_error = torch.zeros_like(owed)
        return owed

    @torch.no_grad()
    def restore(self, owed: Tensor) -> None:
        """Owe what `share` returned, on however many ranks that was [total], or this rank's chunk of it."""
        self.worker_error.zero_()
        self.server_error.copy_(owed if owed.numel() == self.server_error.numel() else owed[self.own])

    @torch.no_grad()
    def reset(self) -> None:
        """Owe nothing: what is averaged from now on is another quantity."""
        self.worker_error.zero_()
        self.server_error.zero_()


def even_chunks(runs: Sequence[int], ranks: int, each: int | None = None) -> list[list[int]]:
    """Deal runs that follow one another to ranks as evenly as their sum allows, or so many elements each; a
    run may be cut.

    >>> even_chunks([5, 2], 2)
    [[4], [1, 2]]
    """
    total = sum(runs)
    each = -(-total // ranks) if each is None else each
    ends = [0, *accumulate(runs)]
    chunks = []
    for rank in range(ranks):
        start, stop = min(rank * each, total), min((rank + 1) * each, total)
        cut = [min(b, stop) - max(a, start) for a, b in pairwise(ends)]
        chunks.append([n for n in cut if n > 0])
    return chunks


def _message(length: int, like: Tensor) -> Tensor:
    return torch.empty(length, dtype=torch.uint8, device=like.device)
