"""Reading tensors ahead of their use, in the order in which they were used last time.

What follows two accesses, (A, B) -> C, is noted whenever it is seen. Two accesses tell the way up through
a model from the way down, so the notes of one iteration predict the next. Where the order changes the
prediction is wrong once, the read is made on the spot, and the note is replaced: order never decides what is
read, only when.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from mainspring.parallel.disk.buffers import Arena
from mainspring.parallel.disk.store import Store


@dataclass(frozen=True)
class Source:
    """A tensor that can be fetched."""

    name: str
    """In the store."""
    numel: int
    dtype: torch.dtype


@dataclass
class _Part:
    start: int
    buffer: Tensor
    task: Future[None]


class Prefetcher:
    """Reads whole tensors through the buffers of an arena.

    Args:
        depth: tensors that may be read ahead; as many as free buffers allow.
    """

    def __init__(self, store: Store, arena: Arena, depth: int = 2) -> None:
        self._store, self._arena, self._depth = store, arena, depth
        self.hits = 0
        """Fetches that found their tensor read, or being read."""
        self.misses = 0
        """Fetches that did not."""
        self._next: dict[tuple[str, str], Source] = {}
        self._before, self._last = "", ""
        self._ahead: dict[str, list[_Part]] = {}
        self._lock = threading.Lock()

    def fetch(self, source: Source, out: Tensor) -> None:
        """Fill `out` [source.numel] (cast to its dtype) and start to read what is likely to come next.

        Raises:
            DiskError: reading failed; `out` is then of no use.
        """
        with self._lock:
            self._note(source)
            parts = self._ahead.pop(source.name, None)
            if parts is None:
                self.misses += 1
                self._through(source, out)
            else:
                self.hits += 1
                self._move(source, parts, out)
            self._predict()

    def hint(self, source: Source) -> None:
        """`source` will be fetched soon."""
        with self._lock:
            self._start(source)

    def drop(self) -> None:
        """Forget what was read ahead (values are about to change); the order stays known."""
        with self._lock:
            for name in list(self._ahead):
                self._release(name)

    def resume(self) -> None:
        """Values have changed: read ahead again."""
        with self._lock:
            self._predict()

    def _note(self, source: Source) -> None:
        self._next[self._before, self._last] = source
        self._before, self._last = self._last, source.name

    def _predict(self) -> None:
        wanted: list[Source] = []
        before, last = self._before, self._last
        while len(wanted) < self._depth:
            source = self._next.get((before, last))
            if source is None or source in wanted:
                break
            wanted.append(source)
            before, last = last, source.name
        names = {source.name for source in wanted}
        for name in [name for name in self._ahead if name not in names]:
            self._release(name)
        for source in wanted:
            self._start(source)

    def _start(self, source: Source) -> None:
        step = self._step(source)
        starts = range(0, source.numel, step)
        if source.name in self._ahead:
            return
        buffers = self._arena.try_take(len(starts))
        if buffers is not None:
            self._ahead[source.name] = [
                _Part(start, buffer, self._store.read(source.name, buffer, start))
                for start, buffer in zip(starts, buffers, strict=True)
            ]

    def _through(self, source: Source, out: Tensor) -> None:
        """Read on the spot, two buffers at a time."""
        step = self._step(source)
        if self._arena.free < 2:
            for name in list(self._ahead):
                self._release(name)
        waiting: list[_Part] = []
        try:
            for start in range(0, source.numel, step):
                buffer = self._arena.take()
                waiting.append(_Part(start, buffer, self._store.read(source.name, buffer, start)))
                if len(waiting) == 2:
                    self._copy(source, waiting.pop(0), out)
            while waiting:
                self._copy(source, waiting.pop(0), out)
        finally:
            self._give(waiting)

    def _move(self, source: Source, parts: list[_Part], out: Tensor) -> None:
        try:
            while parts:
                self._copy(source, parts.pop(0), out)
        finally:
            self._give(parts)

    def _copy(self, source: Source, part: _Part, out: Tensor) -> None:
        try:
            part.task.result()
            count = min(self._step(source), source.numel - part.start)
            values = part.buffer.view(source.dtype)[:count]
            out[part.start : part.start + count].copy_(values)
        finally:
            self._arena.give(part.buffer)

    def _release(self, name: str) -> None:
        self._give(self._ahead.pop(name))

    def _give(self, parts: list[_Part]) -> None:
        for part in parts:
            part.task.exception()
            self._arena.give(part.buffer)

    def _step(self, source: Source) -> int:
        return self._arena.nbytes // source.dtype.itemsize
