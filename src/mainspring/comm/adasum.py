"""Adasum: a sum of vectors that point apart, a mean of vectors that agree (arXiv 2006.02924).

    a (+) b = (1 - a.b / (2 |a|^2)) a + (1 - a.b / (2 |b|^2)) b

layer by layer; a vector of length 0 changes nothing. It is commutative and not associative, so the order is
part of the definition: neighbours first, (((0 1) (2 3)) ((4 5) 6)) of seven ranks; whoever has no neighbour
goes up a level as it is. With a power of two ranks that is the paper's recursive halving, and the traffic is
the same with any number: every rank gets its chunk of all vectors, the few numbers of each level are summed
over ranks in double precision, and the chunks are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm.collectives import all_gather, all_reduce, all_to_all
from mainspring.comm.compressed import even_chunks
from mainspring.comm.counter import Counter


class Adasum:
    """Joins one flat buffer of all ranks of a group.

    Args:
        layers: elements of each layer; they follow one another in the buffer.
        group: the ranks; None of one process.
        counter: told all traffic, under the name "adasum".
    """

    def __init__(
        self, layers: Sequence[int], *, group: dist.ProcessGroup | None = None, counter: Counter | None = None
    ) -> None:
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)
        self._group, self._counter, self._layers = group, counter, list(layers)
        self._each = -(-sum(layers) // self.size)
        chunk = even_chunks(layers, self.size)[self.rank]
        start, first = min(self.rank * self._each, sum(layers)), 0
        while first < len(layers) and start >= layers[first]:
            start, first = start - layers[first], first + 1
        self._runs = chunk
        self._first = first
        """Layer of the first run of this rank's chunk; the next is of the next layer that has elements."""

    @torch.no_grad()
    def __call__(self, buffer: Tensor) -> None:
        """Replace `buffer` by the Adasum of all ranks' buffers: [sum of layers], contiguous, in place."""
        if self.size == 1:
            return
        each, total = self._each, buffer.numel()
        padded = torch.nn.functional.pad(buffer, (0, each * self.size - total))
        inbox = [torch.empty_like(padded[:each]) for _ in range(self.size)]
        outbox = list(padded.view(self.size, each))
        all_to_all(inbox, outbox, name="adasum", group=self._group, counter=self._counter).wait()
        while len(inbox) > 1:
            inbox = self._level(inbox)
        for work in all_gather(padded, inbox[0], name="adasum", group=self._group, counter=self._counter):
            work.wait()
        buffer.copy_(padded[:total])

    def _level(self, vectors: list[Tensor]) -> list[Tensor]:
        """Join neighbours: chunks of n vectors in, of n / 2 (rounded up) out."""
        pairs = list(zip(vectors[::2], vectors[1::2], strict=False))
        sums = torch.zeros(len(pairs), len(self._layers), 3, dtype=torch.float64, device=vectors[0].device)
        for pair, (a, b) in enumerate(pairs):
            for layer, x, y in self._by_layer(a, b):
                x, y = x.double(), y.double()
                sums[pair, layer] = torch.stack([x.dot(y), x.dot(x), y.dot(y)])
        all_reduce(sums, name="adasum", group=self._group, counter=self._counter)
        for pair, (a, b) in enumerate(pairs):
            for layer, x, y in self._by_layer(a, b):
                of_x, of_y = coefficients(*sums[pair, layer].tolist())
                x.mul_(of_x).add_(y, alpha=of_y)
        return [a for a, _ in pairs] + vectors[2 * len(pairs) :]

    def _by_layer(self, a: Tensor, b: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        used = sum(self._runs)
        layers = [n for n in range(self._first, len(self._layers)) if self._layers[n]]
        parts = torch.split(a[:used], self._runs), torch.split(b[:used], self._runs)
        return list(zip(layers, *parts, strict=False))


def coefficients(dot: float, of_a: float, of_b: float) -> tuple[float, float]:
    """What a and b are multiplied by, of a.b, |a|^2 and |b|^2.

    >>> coefficients(1.0, 1.0, 1.0), coefficients(0.0, 4.0, 1.0), coefficients(0.0, 0.0, 1.0)
    ((0.5, 0.5), (1.0, 1.0), (1.0, 1.0))
    """
    return (1 - dot / (2 * of_a) if of_a > 0 else 1.0), (1 - dot / (2 * of_b) if of_b > 0 else 1.0)
