"""Ctrl-C and SIGTERM: the first asks the run to stop after the step under way, the second ends it at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.0
"""Seconds within which a second signal is taken for an echo of the first: a terminal and a launcher both
send one."""


class StopRequest:
    """Watches for signals inside its `with` block; outside the main thread it watches for none.

    The handler only notes what came: the run stops where all ranks can agree on it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first signal, if one came."""
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._at > PATIENCE:
            raise KeyboardInterrupt(f"a second {signal.Signals(number).name} came")
