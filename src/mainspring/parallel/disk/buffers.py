"""Memory that direct I/O can use: pages of its own, handed out from a fixed stock and taken back.

The stock is what bounds the resident memory of the disk tier: whoever wants a buffer while all are out waits,
and what is larger than a buffer is moved in several parts.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from contextlib import suppress

import torch
from torch import Tensor

from mainspring.errors import PlanError

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's mallopt(3)."""

PAGE = mmap.PAGESIZE
"""Alignment of memory, offsets and lengths that every file system accepts for direct I/O."""


def round_up(nbytes: int, step: int = PAGE) -> int:
    """The least multiple of `step` that is at least `nbytes`."""
    return -(-nbytes // step) * step


def aligned(nbytes: int) -> Tensor:
    """Fresh memory that starts at a page and fills whole pages: uint8 [nbytes rounded up to pages]."""
    # Private, so that limits on a process's data (RLIMIT_DATA) count it.
    pages = mmap.mmap(-1, round_up(max(nbytes, 1)), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.uint8)


def return_large_blocks() -> None:
    """Have the C library give blocks of 128 KiB and more back to the system when they are freed.

    glibc begins like that but comes to keep blocks of up to 32 MiB in its heap, where small ones that live on
    split the holes: the heap of a process that frees and takes tensors of many sizes grows by several times
    what is in use. This holds for the whole process; where the C library is another, nothing changes.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(ctypes.c_int(_MMAP_THRESHOLD), ctypes.c_int(2**17))


class Arena:
    """A fixed number of equal page-aligned buffers.

    Args:
        count: how many there are; at least 1.
        nbytes: size of each, rounded up to pages.
    """

    def __init__(self, count: int, nbytes: int) -> None:
        if count < 1:
            raise PlanError(f"an arena of {count} buffers; give it at least 1")
        self.count = count
        self.nbytes = round_up(nbytes)
        self._free = [aligned(self.nbytes) for _ in range(count)]
        self._changed = threading.Condition()

    def take(self) -> Tensor:
        """A buffer, uint8 [nbytes]; waits until one is free."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            return self._free.pop()

    def try_take(self, count: int) -> list[Tensor] | None:
        """`count` buffers at once, or None where so many are not free."""
        with self._changed:
            if len(self._free) < count:
                return None
            return [self._free.pop() for _ in range(count)]

    def give(self, buffer: Tensor) -> None:
        """Take back a buffer that nobody reads or writes any more. Any thread may call it."""
        with self._changed:
            assert buffer.numel() == self.nbytes and len(self._free) < self.count
            self._free.append(buffer)
            self._changed.notify()

    @property
    def free(self) -> int:
        """Buffers that are not out."""
        return len(self._free)
