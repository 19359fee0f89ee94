"""Memory that the ranks of a group share on one host, with nothing to clean up.

Each rank makes an anonymous file (memfd_create) and the others open it through /proc/<pid>/fd/<n>, which
Linux allows to processes of the same user. Such memory has no name in any file system: it is gone when the
last process that maps it is gone, also after SIGKILL. Pages are taken when they are first written.
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import sys
from pathlib import Path

import torch
import torch.distributed as dist

HEADER = 8192
"""Bytes at the start of each rank's memory that are kept for counters and names."""
_PREFIX = "mainspring"
_TOKEN = 40
"""Word of the header at which the token stands, by which the others know that they opened the right file."""


class NotShared(Exception):
    """The ranks cannot share memory; raised on all of them alike, with the reason."""


class SharedMemory:
    """What one collective `share` mapped: the memory of every rank, in rank order."""

    def __init__(self, maps: list[mmap.mmap], pids: list[int], rank: int) -> None:
        self.maps, self.pids, self.rank, self.size = maps, pids, rank, len(maps)
        self.words = [memoryview(m).cast("Q") for m in maps]
        """64-bit words of each rank's memory; a word is written and read whole (an aligned store)."""

    def data(self, rank: int) -> torch.Tensor:
        """The bytes of `rank` behind the header, uint8 [n]; writes are seen by every rank."""
        size = len(self.maps[rank]) - HEADER
        if size == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self.maps[rank], dtype=torch.uint8, count=size, offset=HEADER)


def share(group: dist.ProcessGroup | None, nbytes: int) -> SharedMemory:
    """Give each rank of `group` `nbytes` (its own number) behind a header, and map them on all ranks.

    A collective of the group: it exchanges a few numbers over it.

    Raises:
        NotShared: some rank cannot; all ranks raise it.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    mine, problem = None, unsupported()
    fd, token = -1, 0
    try:
        if problem is None:
            fd, mine, token = _create(nbytes)
    except OSError as error:
        problem = f"memfd_create failed: {error}"
    maps: list[mmap.mmap] = []
    try:
        own = torch.tensor([os.getpid(), fd, token, HEADER + nbytes, _boot(), problem is None])
        tables = [torch.empty_like(own) for _ in range(size)]
        dist.all_gather(tables, own, group=group)
        facts = [[int(x) for x in table] for table in tables]
        if problem is None:
            for other, (pid, number, mark, length, boot, able) in enumerate(facts):
                if other == rank and mine is not None:
                    maps.append(mine)
                    continue
                try:
                    if not able or boot != facts[rank][4]:
                        raise OSError("it is on another host" if able else "it has no shared memory")
                    maps.append(_attach(pid, number, mark, length))
                except OSError as error:
                    problem = f"rank {rank} cannot map the memory of rank {other}: {error}"
                    break
        flag = torch.tensor([problem is None], dtype=torch.int64)
        flags = [torch.empty_like(flag) for _ in range(size)]
        dist.all_gather(flags, flag, group=group)
    finally:
        if fd >= 0:
            os.close(fd)
    failed = [other for other, ok in enumerate(flags) if not ok.item()]
    if failed:
        raise NotShared(problem or f"ranks {failed} cannot map the memory of the others")
    return SharedMemory(maps, [row[0] for row in facts], rank)


def unsupported() -> str | None:
    """Why this machine cannot share memory between ranks; None where it can."""
    if sys.platform != "linux" or not hasattr(os, "memfd_create") or not hasattr(os, "pidfd_open"):
        return "it needs Linux 5.3 or later"
    if platform.machine() not in ("x86_64", "AMD64"):
        # Counters are plain stores: the order in which others see them is that of x86 (total store order).
        return f"{platform.machine()} may reorder stores; only x86-64 is supported"
    return None


def _create(nbytes: int) -> tuple[int, mmap.mmap, int]:
    fd = os.memfd_create(_PREFIX, os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, HEADER + nbytes)
        mapped = mmap.mmap(fd, HEADER + nbytes)
    except (OSError, ValueError):
        os.close(fd)
        raise
    token = secrets.randbits(62)
    words = memoryview(mapped).cast("Q")
    words[_TOKEN] = token
    return fd, mapped, token


def _attach(pid: int, fd: int, token: int, length: int) -> mmap.mmap:
    path = Path(f"/proc/{pid}/fd/{fd}")
    if not str(path.readlink()).startswith(f"/memfd:{_PREFIX}"):
        raise OSError(f"{path} is something else (another process namespace?)")
    opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(opened).st_size != length:
            raise OSError(f"{path} has another size")
        mapped = mmap.mmap(opened, length)
    finally:
        os.close(opened)
    if memoryview(mapped).cast("Q")[_TOKEN] != token:
        raise OSError(f"{path} is something else")
    return mapped


def _boot() -> int:
    """A number that tells hosts (and their restarts) apart."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return int(text.strip().replace("-", "")[:15], 16)
    except OSError:
        return 0
