"""One file of the disk tier: fixed size, read and written in aligned blocks, each with a checksum.

The checksums are kept in memory, by the process that wrote the blocks: what is read must be what this run
wrote last, so a lost write or a file put in place of another is found as surely as a flipped bit.
"""

from __future__ import annotations

import errno
import os
import weakref
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from mainspring.errors import DiskError
from mainspring.parallel.disk.buffers import PAGE, round_up

BLOCK = 2**20
"""Bytes that are moved by one call and share a checksum."""

DIRECT: int = getattr(os, "O_DIRECT", 0)
"""Flag that bypasses the page cache; 0 where the system has none."""

_RECOVER = "what this step changed is lost: start the run again, it resumes from its last checkpoint"


class BlockFile:
    """A file of `nbytes` (rounded up to pages) whose space is reserved at once.

    Args:
        path: must not exist.
        nbytes: its size.
        direct: bypass the page cache (O_DIRECT).

    Raises:
        DiskError: the file cannot be made or there is no space for it.
    """

    def __init__(self, path: Path, nbytes: int, *, direct: bool) -> None:
        self.path = path
        self.nbytes = round_up(nbytes)
        self._sums: list[int | None] = [None] * -(-self.nbytes // BLOCK)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | (DIRECT if direct else 0)
        try:
            self._file = os.open(path, flags, 0o600)
            self._close = weakref.finalize(self, os.close, self._file)
        except OSError as error:
            raise DiskError(f"{path}: cannot be made: {error.strerror}; {_remedy(error)}") from error
        try:
            _reserve(self._file, self.nbytes)
        except OSError as error:
            self.close()
            path.unlink(missing_ok=True)
            raise DiskError(
                f"{path}: no room for its {self.nbytes:,} bytes ({error.strerror}); {_remedy(error)}"
            ) from error

    def write(self, offset: int, data: Tensor) -> None:
        """Write uint8 `data` at `offset`: page-aligned memory, a multiple of `BLOCK` unless at the end.

        Raises:
            DiskError: the system refused, or took fewer bytes than it was given.
        """
        for start, part in _split(data):
            view = part.numpy().data
            done = 0
            while done < len(view):
                try:
                    count = os.pwritev(self._file, [view[done:]], offset + start + done)
                except OSError as error:
                    raise self._failed("writing", offset + start + done, len(view) - done, error) from error
                if count <= 0 or count % PAGE:
                    raise DiskError(
                        f"{self.path}: short write at offset {offset + start + done:,}: {count:,} of "
                        f"{len(view) - done:,} bytes; is the disk full? {_RECOVER}"
                    )
                done += count
            self._sums[(offset + start) // BLOCK] = checksum(part)

    def read(self, offset: int, data: Tensor) -> None:
        """Fill uint8 `data` from `offset` and check it; alignment as for `write`.

        Raises:
            DiskError: the system refused, the file is shorter than it was, or its bytes are not those that
                were written.
        """
        for start, part in _split(data):
            view = part.numpy().data
            done = 0
            while done < len(view):
                try:
                    count = os.preadv(self._file, [view[done:]], offset + start + done)
                except OSError as error:
                    raise self._failed("reading", offset + start + done, len(view) - done, error) from error
                if count <= 0:
                    raise DiskError(
                        f"{self.path}: ends at {offset + start + done:,} of {self.nbytes:,} bytes: somebody "
                        f"else has changed it. Keep others out of the folder; {_RECOVER}"
                    )
                done += count
            want, got = self._sums[(offset + start) // BLOCK], checksum(part)
            if want is None:
                raise DiskError(f"{self.path}: block at {offset + start:,} is read before it was written")
            if got != want:
                raise DiskError(
                    f"{self.path}: the {len(view):,} bytes at offset {offset + start:,} are not those that "
                    f"were written: checksum {got:08x}, expected {want:08x}. Check the disk (dmesg, "
                    f"smartctl) or name another folder; {_RECOVER}"
                )

    def check(self) -> None:
        """Raise DiskError where the file is gone or no longer has its size."""
        try:
            now, mine = self.path.stat(), os.fstat(self._file)
        except FileNotFoundError:
            raise DiskError(
                f"{self.path}: the file is gone ({self.nbytes:,} bytes). Keep others out of the folder; "
                f"{_RECOVER}"
            ) from None
        if (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino):
            raise DiskError(f"{self.path}: another file is in its place; {_RECOVER}")
        if now.st_size != self.nbytes:
            raise DiskError(
                f"{self.path}: has {now.st_size:,} bytes and should have {self.nbytes:,}. Keep others out of "
                f"the folder; {_RECOVER}"
            )

    def close(self) -> None:
        """Close the file; it stays on the disk."""
        self._close()

    def _failed(self, doing: str, offset: int, count: int, error: OSError) -> DiskError:
        return DiskError(
            f"{self.path}: {doing} {count:,} bytes at offset {offset:,} failed: {error.strerror} "
            f"({errno.errorcode.get(error.errno or 0, error.errno)}); {_remedy(error)}; {_RECOVER}"
        )


def checksum(data: Tensor) -> int:
    """CRC-32 of the sums of a block's pages and of its columns, words of 8 bytes: uint8 [pages x PAGE].

    What changes anything in one page changes its sum or those of columns; to go unseen by both a change takes
    four words in a rectangle that cancel. Sums run at the speed of memory: 12.5 GB/s on a core of a Zen 3,
    where zlib's CRC-32 over all bytes makes 2.4 and takes as long as a fast disk.
    """
    words = data.numpy().view(np.uint64).reshape(-1, PAGE // 8)
    return zlib.crc32(words.sum(1).data, zlib.crc32(words.sum(0).data))


def _reserve(file: int, nbytes: int) -> None:
    """Give a file its size and, where the file system can, its space."""
    os.ftruncate(file, nbytes)
    if nbytes and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, nbytes)
        except OSError as error:
            # Without support in the file system the C library writes single bytes, which direct I/O refuses.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


def _split(data: Tensor) -> list[tuple[int, Tensor]]:
    return [(start, data[start : start + BLOCK]) for start in range(0, data.numel(), BLOCK)]


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space there or name a folder on a larger disk (plan.offload_folder)"
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of files (ulimit -f)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "name a folder that you may write to (plan.offload_folder)"
    if error.errno == errno.EIO:
        return "the disk is failing (see dmesg): name a folder on another (plan.offload_folder)"
    return "name another folder (plan.offload_folder)"
