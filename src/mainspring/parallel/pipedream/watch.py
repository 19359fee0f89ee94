"""Know which rank of a pipeline is gone, on every rank, without waiting for a message that never comes.

Every rank holds a receive open from every other. A process that ends closes its connections, so all others
see it at once; a rank that fails tells them in words; and each rank is heard by the next one a few times
within the time-out, so that one that stands still is named, too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from mainspring.comm import point
from mainspring.errors import StageError

_TAG = 9901
_SIZE = 1024
_BEAT, _BYE, _FAILED = 1, 2, 3


class Watch:
    """The other ranks of `group`, from when it is made until `close`.

    Args:
        group: a gloo group of its own.
        describe: a rank in words.
        timeout: seconds after which a silent rank counts as lost.
        wake: called, from another thread, when a rank is lost.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        describe: Callable[[int], str],
        timeout: float,
        wake: Callable[[], None],
    ) -> None:
        self._group, self._describe, self._timeout, self._wake = group, describe, timeout, wake
        self._rank, size = dist.get_rank(group), dist.get_world_size(group)
        self._others = [rank for rank in range(size) if rank != self._rank]
        self._before = (self._rank - 1) % size
        self._next = (self._rank + 1) % size
        self._lost: str | None = None
        self._left: set[int] = set()
        self._heard = time.monotonic()
        self._closing = threading.Event()
        self._listeners = [self._thread(self._listen, other) for other in self._others]
        self._beats = self._thread(self._beat)

    def check(self) -> None:
        """Raise if a rank is lost.

        Raises:
            StageError: which, and what it said last.
        """
        if self._lost is None and self._before not in self._left:
            silent = time.monotonic() - self._heard
            if silent > self._timeout:
                self.fail(f"{self._describe(self._before)} stands still: no sign of life in {silent:.0f} s")
        if self._lost is not None:
            raise StageError(self._lost)

    def wait(self, seconds: float) -> None:
        """Give the news of a lost rank so long to arrive; raise as soon as it is here."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            time.sleep(0.01)

    def fail(self, reason: str) -> None:
        """Tell all ranks, and this one, that a rank is lost."""
        if self._lost is not None:
            return
        self._lost = reason
        text = reason.encode()[: _SIZE - 1]
        tellers = [self._thread(self._say, other, _FAILED, text) for other in self._others]
        end = time.monotonic() + 1.0
        for teller in tellers:
            teller.join(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Leave: the others do not miss this rank any more."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._beats.join(1.0)
        tellers = [self._thread(self._say, other, _BYE) for other in self._others]
        end = time.monotonic() + (self._timeout if self._lost is None else 1.0)
        for thread in (*tellers, *self._listeners):
            thread.join(max(0.0, end - time.monotonic()))

    def _listen(self, other: int) -> None:
        message = torch.empty(_SIZE, dtype=torch.uint8)
        while True:
            try:
                point.receive(message, other, tag=_TAG, group=self._group)
            except RuntimeError as error:
                if not self._closing.is_set():
                    self._note(f"{self._describe(other)} is gone: {_first_sentence(error)}")
                return
            kind = int(message[0])
            if kind == _BEAT:
                self._heard = time.monotonic()
                continue
            self._left.add(other)
            if kind == _FAILED:
                self._note(bytes(message[1:].tolist()).rstrip(b"\0").decode(errors="replace"))
            return

    def _note(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
        self._wake()

    def _beat(self) -> None:
        while not self._closing.wait(self._timeout / 5) and self._lost is None:
            self._say(self._next, _BEAT)

    def _say(self, other: int, kind: int, text: bytes = b"") -> None:
        message = torch.zeros(_SIZE, dtype=torch.uint8)
        message[0] = kind
        if text:
            message[1 : 1 + len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        with contextlib.suppress(RuntimeError):  # a rank that is gone is noticed by its listener
            point.send(message, other, name="watch", tag=_TAG, group=self._group)

    def _thread(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        return thread


def _first_sentence(error: RuntimeError) -> str:
    """What gloo says, without the place in its source."""
    return str(error).rpartition("] ")[2].split(". ")[0]
