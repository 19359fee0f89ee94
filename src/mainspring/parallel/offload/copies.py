"""What moves between the host and the device: queued beside the computation where the device is not the
host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def host_empty(numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory on the host [numel], pinned where `device` copies from it by itself."""
    return torch.empty(numel, dtype=dtype, pin_memory=device.type == "cuda")


class Copies:
    """Copies queued on a stream of their own, each waited for by who needs it.

    On a CPU a copy is made at once and there is nothing to wait for.
    """

    def __init__(self) -> None:
        self._stream: Any = None
        self._events: dict[int, Any] = {}

    def start(self, out: Tensor, source: Tensor, device: torch.device, key: object) -> None:
        """Copy `source` to `out`, one of which is on `device`; `wait(key)` tells when it is there."""
        if device.type != "cuda":
            out.copy_(source)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            out.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        for tensor in (out, source):
            if tensor.device.type == "cuda":
                tensor.record_stream(self._stream)
        self._events[id(key)] = event

    def wait(self, key: object, *, host: bool) -> None:
        """Have the host (it blocks) or the device's present stream (it does not) wait for a copy."""
        event = self._events.pop(id(key), None)
        if event is None:
            return
        if host:
            event.synchronize()
        else:
            torch.cuda.current_stream().wait_event(event)

    def wait_all(self) -> None:
        """Have the host wait for every copy."""
        for event in self._events.values():
            event.synchronize()
        self._events.clear()
