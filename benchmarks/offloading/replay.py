"""What a step on disk moves, moved without computing: the time that the disk alone takes.

Disks give more for the first gigabyte than they keep up (caches of drives, budgets of virtual disks), so the
bound is taken from as many bytes as a step moves, one step after the other.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import median

BLOCK = 2**20
STREAMS = 2
"""Threads a direction: on a virtual disk fewer leave it idle, and more gain nothing."""
TIMES = 3


def replay(folder: str, read: int, written: int, *, direct: bool) -> float:
    """Median seconds that plain threads take to read and write so many bytes side by side.

    Args:
        folder: where the disk is.
        read, written: bytes, read from and written over one file of `written` bytes.
        direct: past the page cache.
    """
    path = Path(folder) / "replay"
    file = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0), 0o600)
    blocks = max(1, written // BLOCK)
    try:
        _move([_task(os.pwritev, file, blocks, blocks)])
        seconds = []
        for _ in range(TIMES):
            began = time.perf_counter()
            _move([_task(os.preadv, file, read // BLOCK, blocks), _task(os.pwritev, file, blocks, blocks)])
            seconds.append(time.perf_counter() - began)
    finally:
        os.close(file)
        path.unlink()
    return median(seconds)


def _task(move: Callable[..., int], file: int, count: int, blocks: int) -> Callable[[], None]:
    """What each thread of a direction does: take the next of `count` blocks until there is none."""
    numbers: Iterator[int] = iter(range(count))
    lock = threading.Lock()

    def work() -> None:
        page = mmap.mmap(-1, BLOCK)
        page.write(b"\x01" * BLOCK)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            assert move(file, [page], number % blocks * BLOCK) == BLOCK

    return work


def _move(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
