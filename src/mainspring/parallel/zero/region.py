"""Memory that is given back the moment it is not needed, at an address that stays.

Autograd keeps views of gathered parameters for backward, so their address must stay the same while their
memory comes and goes. On a Linux CPU a region is pages of its own: freeing returns them to the system at
once, whatever the allocator of other tensors does, and resident memory is what is in use. Elsewhere the
storage is resized.

Views of a region have a version: while it is free it is another than when it was taken, so that a backward
which meets parameters that nobody gathered ends in autograd's error instead of in wrong numbers. Whoever
keeps an alias past autograd reads zeros; a write to it is stopped by the system.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from functools import cache

import torch
from torch import Tensor

_PAGE = mmap.PAGESIZE
_HUGE = 2**21
_FREED = 1 << 20
"""Added to the version of what is free."""


class Region:
    """Flat memory of `numel` elements, taken at first (views are made while it is).

    Attributes:
        tensor: [numel]; parameters are views of it.
        writer: the same memory, for writing without a change of the version of `tensor`.
        held: whether it is taken.
    """

    def __init__(self, numel: int, dtype: torch.dtype, device: torch.device) -> None:
        nbytes = numel * dtype.itemsize
        self._pages: mmap.mmap | None = None
        self.nbytes = nbytes
        self._small = device.type == "cpu" and nbytes < _PAGE
        """Not worth a page; kept."""
        if device.type == "cpu" and sys.platform == "linux" and nbytes >= _PAGE:
            self._pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if nbytes >= 2 * _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                self._pages.madvise(mmap.MADV_HUGEPAGE)
            self.tensor = torch.frombuffer(self._pages, dtype=dtype, count=numel)
            self.writer = torch.frombuffer(self._pages, dtype=dtype, count=numel)
            self._protect(mmap.PROT_READ)
        else:
            self.tensor = torch.empty(numel, dtype=dtype, device=device)
            self.writer = self.tensor.data
        self.held = True
        self._version = self.tensor._version

    def take(self) -> Tensor:
        """Have the memory; returns `writer`, whose values are undefined."""
        if not self.held:
            if self._pages is not None:
                self._protect(mmap.PROT_READ | mmap.PROT_WRITE)
            elif self.nbytes and not self._small:
                self.writer.untyped_storage().resize_(self.nbytes)
            self._mark(self._version)
            self.held = True
        return self.writer

    def free(self) -> None:
        """Give the memory back."""
        if self.held:
            if self._pages is not None:
                self._pages.madvise(mmap.MADV_DONTNEED)
                self._protect(mmap.PROT_READ)
            elif self._small:
                self.writer.zero_()
            elif self.nbytes:
                self.writer.untyped_storage().resize_(0)
            self._mark(self._version + _FREED)
            self.held = False

    def _protect(self, access: int) -> None:
        """Allow reading and writing, or reading. What nobody may write, the system does not count as memory
        of the process: a limit on its data bounds what is in use."""
        if _libc().mprotect(ctypes.c_void_p(self.writer.data_ptr()), ctypes.c_size_t(self.nbytes), access):
            code = ctypes.get_errno()
            if code == errno.ENOMEM:
                raise MemoryError(f"no memory for {self.nbytes:,} bytes of gathered parameters")
            raise OSError(code, os.strerror(code))

    def _mark(self, version: int) -> None:
        torch._C._autograd._unsafe_set_version_counter((self.tensor,), (version,))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
