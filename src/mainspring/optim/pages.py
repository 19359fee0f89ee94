"""Memory in pages of its own, for what is large and lives long between tensors that come and go.

The C library keeps freed blocks of up to 32 MiB for the next of their size, and what lives on between them
splits the holes: a process's memory then grows well past what is in use. Pages of their own leave no hole,
and go back to the system with the last view of them.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from contextlib import suppress

import torch
from torch import Tensor

_LARGE = 2**17
"""Bytes from which memory gets pages of its own."""
_HUGE = 2**22
"""Bytes from which huge pages are asked for: fewer faults, and nothing to speak of lost at the ends."""
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE (Linux 5.14): one call instead of a fault for each page."""


def own_pages(device: torch.device, nbytes: int) -> bool:
    """Whether `zeros` gives tensors of this size pages of their own."""
    return device.type == "cpu" and sys.platform == "linux" and nbytes >= _LARGE


def zeros(numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros [numel]; large ones on a Linux CPU in pages of their own."""
    nbytes = numel * dtype.itemsize
    if not own_pages(device, nbytes):
        return torch.zeros(numel, dtype=dtype, device=device)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if nbytes >= _HUGE:
        pages.madvise(mmap.MADV_HUGEPAGE)
    with suppress(OSError):  # an older kernel takes pages one by one
        pages.madvise(_POPULATE_WRITE)
    return torch.frombuffer(pages, dtype=dtype, count=numel)


def trim() -> None:
    """Have the C library give the free pages of its heap back (glibc's malloc_trim; elsewhere nothing)."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
