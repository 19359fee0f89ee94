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

from mainspring.comm.collectives import all_gather, all_reduce, all_to_all
from mainspring.comm.counter import Counter
from mainspring.numerics.signs import Scale, compress, expand, message_bytes


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
        outbox = [_message(length, buffer) for length in lengths]
        for part, runs, message in zip(self.parts, self._runs, outbox, strict=True):
            compress(buffer[part], self.worker_error[part], runs, message, scale=self._scale)
        inbox = [_message(lengths[self.rank], buffer) for _ in outbox]
        if self._group is None:
            inbox = outbox
        else:
            all_to_all(
                inbox, outbox, name=name, largest=max(lengths), group=self._group, counter=self._counter
            ).wait()
        runs, mean = self._runs[self.rank], buffer[self.own]
        for rank, message in enumerate(inbox):
            expand(message, runs, mean, weight=1 / self.size, add=rank > 0)
        reply = _message(max(lengths), buffer)
        compress(mean, self.server_error, runs, reply[: lengths[self.rank]], scale=self._scale)
        replies = reply
        if self._group is not None:
            replies = _message(self.size * max(lengths), buffer)
            for work in all_gather(replies, reply, name=name, group=self._group, counter=self._counter):
                work.wait()
        for row, part, runs in zip(replies.view(self.size, -1), self.parts, self._runs, strict=True):
            expand(row[: message_bytes(runs)], runs, buffer[part])

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
