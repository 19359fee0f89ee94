"""The collectives as chunks of a stream: what a rank copies into its slot, what it makes of the others'."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.comm.stream import SLOT_BYTES, Slots
from mainspring.comm.sums import Reduction, Scratch, reduce_into

ONE_SHOT_BYTES = 1 << 15
"""An all-reduce of at most this many bytes is done in one exchange: every rank adds up everything."""
_ALIGN = 64
"""Bytes to which parts of a chunk are aligned."""


class _Operation:
    def __init__(self, chunks: int, rank: int, size: int, *signature: object) -> None:
        self.chunks, self.rank, self.size = chunks, rank, size
        self.sources = [other for other in range(size) if other != rank]
        self.signature = zlib.crc32(repr((type(self).__name__, *signature)).encode())

    def after(self, chunk: int) -> int:
        return 0

    def publish(self, chunk: int, slots: Slots) -> bool:
        return False

    def consume(self, chunk: int, slots: Slots) -> None:
        pass


class Barrier(_Operation):
    """Nothing to say but that one is here."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(1, rank, size)


class Broadcast(_Operation):
    """`tensor` (bytes [n]) of rank `source` to all."""

    def __init__(self, tensor: Tensor, source: int, rank: int, size: int) -> None:
        super().__init__(_ceil(tensor.numel(), SLOT_BYTES), rank, size, tensor.numel(), source)
        self.source, self.pieces = source, torch.split(tensor, SLOT_BYTES)
        if rank != source:
            self.sources = [source]

    def publish(self, chunk: int, slots: Slots) -> bool:
        if self.rank == self.source:
            piece = self.pieces[chunk]
            slots.of(self.rank, torch.uint8)[: piece.numel()].copy_(piece)
        return self.rank == self.source

    def consume(self, chunk: int, slots: Slots) -> None:
        if self.rank != self.source:
            piece = self.pieces[chunk]
            piece.copy_(slots.of(self.source, torch.uint8)[: piece.numel()])


class AllGather(_Operation):
    """`shard` (bytes [n]) of every rank into `output` (bytes [N, n])."""

    def __init__(self, output: Tensor, shard: Tensor, rank: int, size: int) -> None:
        super().__init__(_ceil(shard.numel(), SLOT_BYTES), rank, size, shard.numel())
        self.shard, self.output = shard, output
        self.in_place = output[rank].data_ptr() == shard.data_ptr()

    def publish(self, chunk: int, slots: Slots) -> bool:
        part = slice(chunk * SLOT_BYTES, (chunk + 1) * SLOT_BYTES)
        piece = self.shard[part]
        slots.of(self.rank, torch.uint8)[: piece.numel()].copy_(piece)
        if not self.in_place:
            self.output[self.rank, part].copy_(piece)
        return True

    def consume(self, chunk: int, slots: Slots) -> None:
        part = slice(chunk * SLOT_BYTES, (chunk + 1) * SLOT_BYTES)
        for source in self.sources:
            piece = self.output[source, part]
            piece.copy_(slots.of(source, torch.uint8)[: piece.numel()])


class ReduceScatter(_Operation):
    """The sum over ranks of `whole` [N, n], each rank keeping its row in `output` [n]."""

    def __init__(
        self, output: Tensor, whole: Tensor, op: Reduction, rank: int, size: int, scratch: Scratch
    ) -> None:
        itemsize = whole.dtype.itemsize
        room = SLOT_BYTES // max(1, size - 1) // _ALIGN * _ALIGN // itemsize
        self.width = min(room, output.numel() + -output.numel() % _ALIGN)
        signature = (output.numel(), whole.dtype, op)
        super().__init__(_ceil(output.numel(), self.width), rank, size, *signature)
        self.output, self.whole, self.op, self.scratch = output, whole, op, scratch

    def publish(self, chunk: int, slots: Slots) -> bool:
        start, width = chunk * self.width, self.width
        slot = slots.of(self.rank, self.whole.dtype)
        for other in self.sources:
            piece = self.whole[other, start : start + width]
            at = (other - (other > self.rank)) * width
            slot[at : at + piece.numel()].copy_(piece)
        return True

    def consume(self, chunk: int, slots: Slots) -> None:
        start, width = chunk * self.width, self.width
        out = self.output[start : start + width]
        terms = []
        for source in range(self.size):
            if source == self.rank:
                terms.append(self.whole[source, start : start + width])
            else:
                at = (self.rank - (self.rank > source)) * width
                terms.append(slots.of(source, out.dtype)[at : at + out.numel()])
        reduce_into(out, terms, self.op, self.scratch)


class AllToAll(_Operation):
    """`outbox[r]` (bytes) of every rank to rank r, which has it in its `inbox`; sizes may differ by pair.

    Args:
        largest: bytes of the largest piece between two ranks, the same on all ranks.
    """

    def __init__(
        self, inbox: Sequence[Tensor], outbox: Sequence[Tensor], largest: int, rank: int, size: int
    ) -> None:
        room = SLOT_BYTES // max(1, size - 1) // _ALIGN * _ALIGN
        self.width = min(room, largest + -largest % _ALIGN)
        super().__init__(_ceil(largest, self.width), rank, size, largest)
        self.inbox, self.outbox = inbox, outbox
        inbox[rank].copy_(outbox[rank])

    def publish(self, chunk: int, slots: Slots) -> bool:
        start, slot, said = chunk * self.width, slots.of(self.rank, torch.uint8), False
        for other in self.sources:
            piece = self.outbox[other][start : start + self.width]
            at = (other - (other > self.rank)) * self.width
            slot[at : at + piece.numel()].copy_(piece)
            said |= piece.numel() > 0
        return said

    def consume(self, chunk: int, slots: Slots) -> None:
        start = chunk * self.width
        for source in self.sources:
            piece = self.inbox[source][start : start + self.width]
            if piece.numel():
                at = (self.rank - (self.rank > source)) * self.width
                piece.copy_(slots.of(source, torch.uint8)[at : at + piece.numel()])


class SmallAllReduce(_Operation):
    """The sum over ranks of `tensor` [n] in place, by everyone adding up everything."""

    def __init__(self, tensor: Tensor, op: Reduction, rank: int, size: int, scratch: Scratch) -> None:
        super().__init__(1 if tensor.numel() else 0, rank, size, tensor.numel(), tensor.dtype, op)
        self.tensor, self.op, self.scratch = tensor, op, scratch

    def publish(self, chunk: int, slots: Slots) -> bool:
        slots.of(self.rank, self.tensor.dtype)[: self.tensor.numel()].copy_(self.tensor)
        return True

    def consume(self, chunk: int, slots: Slots) -> None:
        tensor = self.tensor
        terms = [
            tensor if source == self.rank else slots.of(source, tensor.dtype)[: tensor.numel()]
            for source in range(self.size)
        ]
        reduce_into(tensor, terms, self.op, self.scratch)


class AllReduce(_Operation):
    """The sum over ranks of `tensor` [n] in place, in blocks of one slot.

    Of every block each rank adds up its own N-th part and gives the result to the others. The chunks are
    offer 0, offer 1, result 0, offer 2, result 1, ...: a block is on offer while the one before is added up.
    """

    def __init__(self, tensor: Tensor, op: Reduction, rank: int, size: int, scratch: Scratch) -> None:
        self.width = SLOT_BYTES // tensor.dtype.itemsize
        self.blocks = _ceil(tensor.numel(), self.width)
        super().__init__(2 * self.blocks, rank, size, tensor.numel(), tensor.dtype, op)
        self.tensor, self.op, self.scratch = tensor, op, scratch

    def after(self, chunk: int) -> int:
        block, result = self._at(chunk)
        return self._chunk_of_offer(block) + 1 if result else 0

    def publish(self, chunk: int, slots: Slots) -> bool:
        block, result = self._at(chunk)
        piece = self._block(block)
        low, high = self._share(piece, self.rank)
        slot = slots.of(self.rank, piece.dtype)
        for start, stop in [(low, high)] if result else [(0, low), (high, piece.numel())]:
            if stop > start:
                slot[start:stop].copy_(piece[start:stop])
        return True

    def consume(self, chunk: int, slots: Slots) -> None:
        block, result = self._at(chunk)
        piece = self._block(block)
        if result:
            for source in self.sources:
                low, high = self._share(piece, source)
                piece[low:high].copy_(slots.of(source, piece.dtype)[low:high])
            return
        low, high = self._share(piece, self.rank)
        terms = [
            (piece if source == self.rank else slots.of(source, piece.dtype))[low:high]
            for source in range(self.size)
        ]
        reduce_into(piece[low:high], terms, self.op, self.scratch)

    def _at(self, chunk: int) -> tuple[int, bool]:
        """Block of a chunk, and whether it is its result."""
        if chunk == 0 or chunk == 2 * self.blocks - 1:
            return (0, False) if chunk == 0 else (self.blocks - 1, True)
        return ((chunk + 1) // 2, False) if chunk % 2 else (chunk // 2 - 1, True)

    def _chunk_of_offer(self, block: int) -> int:
        return max(0, 2 * block - 1)

    def _block(self, block: int) -> Tensor:
        return self.tensor[block * self.width : (block + 1) * self.width]

    def _share(self, piece: Tensor, rank: int) -> tuple[int, int]:
        step = _ALIGN // piece.dtype.itemsize
        share = _ceil(_ceil(piece.numel(), self.size), step) * step
        return min(rank * share, piece.numel()), min((rank + 1) * share, piece.numel())


def _ceil(a: int, b: int) -> int:
    return -(-a // b) if a else 0
