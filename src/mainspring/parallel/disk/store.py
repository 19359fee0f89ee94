"""Named tensors on disk, read and written by threads.

A tensor is one plain file of its bytes (little-endian, row-major, padded to a page) in the scratch folder of
this process. Reads and writes are started and waited for apart, so that they run beside the computation;
operations on one tensor happen in the order in which they were started.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from mainspring.errors import DiskError
from mainspring.parallel.disk.blocks import BLOCK, DIRECT, BlockFile
from mainspring.parallel.disk.buffers import PAGE, aligned, round_up
from mainspring.parallel.disk.folder import Scratch

Report = Callable[[str], None]
"""Told once what a person should know, such as a fallback."""


@dataclass(eq=False)
class _Entry:
    file: BlockFile
    numel: int
    dtype: torch.dtype
    last_write: Future[None] | None = None
    reads: list[Future[None]] = field(default_factory=list)


class Store:
    """A folder of tensors that this process alone uses, for as long as it lives.

    Args:
        folder: where the files go, in a folder of their own; made if it is not there.
        rank: of this process; several share `folder`.
        threads: reads, and as many writes, that may be under way at once.
        direct: use direct I/O where the file system has it; else the page cache, and `report` is told.
        report: told of a fallback.

    Raises:
        DiskError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int = 0,
        threads: int = 4,
        direct: bool = True,
        report: Report | None = None,
    ) -> None:
        self._scratch = Scratch(folder, rank)
        self.path = self._scratch.path
        self.bytes_read = 0
        """Bytes of tensors read so far."""
        self.bytes_written = 0
        """Bytes of tensors written so far."""
        self._entries: dict[str, _Entry] = {}
        self._counts = threading.Lock()
        self._failure: BaseException | None = None
        self._closed = False
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="disk-read")
        self._writers = ThreadPoolExecutor(threads, thread_name_prefix="disk-write")
        try:
            self.direct = direct and _direct_works(self.path)
        except OSError as error:
            self.close()
            raise DiskError(
                f"{folder}: writing and reading a page failed: {error.strerror}; name another folder "
                "(plan.offload_folder)"
            ) from error
        if direct and not self.direct and report is not None:
            report(
                f"{folder}: the file system has no direct I/O, so states pass through the page cache "
                "(slower, and the system's memory fills with them)"
            )

    def create(self, name: str, numel: int, dtype: torch.dtype) -> None:
        """Reserve the space of a tensor; it has no values until it is written.

        Raises:
            DiskError: there is no room, or a tensor of this name.
        """
        self.require()
        if name in self._entries:
            raise DiskError(f"{self.path}: there is a tensor {name!r} already")
        file = BlockFile(self.path / _file_name(name), numel * dtype.itemsize, direct=self.direct)
        self._entries[name] = _Entry(file, numel, dtype)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def nbytes(self) -> int:
        """Bytes of disk that are reserved."""
        return sum(entry.file.nbytes for entry in self._entries.values())

    def read(self, name: str, buffer: Tensor, start: int = 0) -> Future[None]:
        """Start to fill `buffer` from element `start` on.

        Args:
            name: of the tensor.
            buffer: uint8, aligned (`buffers.aligned`, or of an `Arena`), whole pages; what lies past the end
                of the tensor stays as it is. Leave it alone until the result is there.
            start: first element; its byte offset is a multiple of `blocks.BLOCK`.

        Returns:
            Done when the values are there and their checksums are right; its `result()` raises DiskError.
        """
        entry = self._entry(name)
        offset, part = self._range(entry, buffer, start)
        after = [entry.last_write] if entry.last_write is not None else []
        task = self._readers.submit(self._run, after, entry.file.read, offset, part)
        entry.reads = [r for r in entry.reads if not r.done()] + [task]
        return task

    def write(self, name: str, buffer: Tensor, start: int = 0) -> Future[None]:
        """Start to write `buffer` at element `start` on; arguments and result as of `read`."""
        entry = self._entry(name)
        offset, part = self._range(entry, buffer, start)
        after = [*entry.reads, *([entry.last_write] if entry.last_write is not None else [])]
        task = self._writers.submit(self._run, after, entry.file.write, offset, part)
        entry.last_write, entry.reads = task, []
        return task

    def flush(self) -> None:
        """Wait until all that was started has ended.

        Raises:
            DiskError: something failed.
        """
        for entry in self._entries.values():
            for task in (*entry.reads, entry.last_write):
                if task is not None:
                    task.result()
        self.require()

    def check(self) -> None:
        """Wait for what is under way, and raise DiskError where a file is gone, replaced or resized."""
        self.flush()
        for entry in self._entries.values():
            entry.file.check()

    def fail(self, error: BaseException) -> None:
        """Refuse everything from now on, with this error: what is on disk is of no use any more."""
        self._failure = self._failure or error

    def close(self) -> None:
        """Stop the threads and remove the files; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._readers.shutdown(cancel_futures=True)
        self._writers.shutdown(cancel_futures=True)
        for entry in self._entries.values():
            entry.file.close()
        self._scratch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self, after: list[Future[None]], act: Callable[[int, Tensor], None], offset: int, part: Tensor
    ) -> None:
        # What a task waits for was started before it, so the oldest task can always go on.
        for task in after:
            task.exception()
        self.require()
        try:
            act(offset, part)
        except BaseException as error:
            self.fail(error)
            raise
        with self._counts:
            if act.__name__ == "read":
                self.bytes_read += part.numel()
            else:
                self.bytes_written += part.numel()

    def require(self) -> None:
        """Raise DiskError where the store is closed, or something has failed before."""
        if self._closed:
            raise DiskError(f"{self.path}: the store is closed")
        if self._failure is not None:
            raise DiskError(str(self._failure)) from self._failure

    def _entry(self, name: str) -> _Entry:
        self.require()
        return self._entries[name]

    def _range(self, entry: _Entry, buffer: Tensor, start: int) -> tuple[int, Tensor]:
        offset = start * entry.dtype.itemsize
        assert offset % BLOCK == 0 and 0 <= start <= entry.numel, (start, entry.numel)
        assert buffer.dtype == torch.uint8 and buffer.data_ptr() % PAGE == 0
        count = min(buffer.numel(), entry.file.nbytes - offset)
        assert count % BLOCK == 0 or offset + count == entry.file.nbytes, (offset, count)
        return offset, buffer[:count]


def _direct_works(folder: Path) -> bool:
    """Whether a page can be written and read back past the page cache; OSError where not even through it."""
    path = folder / "probe"
    page = aligned(PAGE)
    for flags in (DIRECT, 0) if DIRECT else (0,):
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
            try:
                page.fill_(7)
                os.pwritev(file, [page.numpy().data], 0)
                page.zero_()
                os.preadv(file, [page.numpy().data], 0)
                if not bool((page == 7).all()):
                    raise OSError(errno.EIO, "what was read is not what was written", str(path))
            finally:
                os.close(file)
                path.unlink(missing_ok=True)
        except OSError as error:
            if flags and error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                continue
            raise
        return bool(flags)
    raise AssertionError


def _file_name(name: str) -> str:
    """A file name for a tensor's: letters, digits and .-+_ stay."""
    return "".join(c if c.isalnum() or c in ".-+_" else f"%{ord(c):02x}" for c in name) + ".bin"


def padded_bytes(numel: int, dtype: torch.dtype) -> int:
    """Bytes of disk that a tensor takes."""
    return round_up(numel * dtype.itemsize)
