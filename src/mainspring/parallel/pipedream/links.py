"""Activations and gradients under way between the stages of a pipeline.

A rank never waits for what it sends, and what it will need is received while it computes. Each pair of ranks
has one stream in each direction, in the order in which the sender worked, which is the order in which the
receiver will. A message says its own shapes.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm import Counter, point

Kind = Literal["activations", "gradients"]
_TAGS: dict[Kind, int] = {"activations": 9902, "gradients": 9903}
_HEADER = 128
_AHEAD = 2
"""Messages of a stream that are received before they are asked for."""
_DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


class Message(NamedTuple):
    """What one stage tells a neighbour of a minibatch."""

    batch: int
    """Number of the minibatch."""
    tensors: tuple[Tensor, ...]
    """Activations; or the gradients of those that asked for one."""
    wants: tuple[bool, ...]
    """Of each: whether its sender wants a gradient."""


class Links:
    """The streams of a rank for one stretch of training.

    Args:
        group: the pipeline's.
        expected: how many messages come from whom.
        check: raises if a rank is lost.
        counter: counts what is sent, as "activations" and "gradients".
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        expected: Mapping[tuple[Kind, int], int],
        check: Callable[[], None],
        counter: Counter | None,
    ) -> None:
        self._group, self._check, self._counter = group, check, counter
        self._changed = threading.Condition()
        self._inbox: dict[tuple[Kind, int], deque[Message]] = {key: deque() for key in expected}
        self._outbox: dict[tuple[Kind, int], queue.SimpleQueue[Message | None]] = {}
        self._senders: list[threading.Thread] = []
        for key, number in expected.items():
            threading.Thread(target=self._receive, args=(key, number), daemon=True).start()

    def wake(self) -> None:
        """Have whoever waits look again whether all ranks are there."""
        with self._changed:
            self._changed.notify_all()

    def send(self, kind: Kind, to: int, message: Message) -> None:
        """Hand a message over; its tensors are not written any more."""
        key = (kind, to)
        if key not in self._outbox:
            self._outbox[key] = queue.SimpleQueue()
            thread = threading.Thread(target=self._send, args=key, daemon=True)
            thread.start()
            self._senders.append(thread)
        self._outbox[key].put(message)

    def receive(self, kind: Kind, source: int) -> Message:
        """The next message of a stream.

        Raises:
            StageError: a rank is lost.
        """
        with self._changed:
            inbox = self._inbox[kind, source]
            while not inbox:
                self._check()
                self._changed.wait(0.2)
            message = inbox.popleft()
            self._changed.notify_all()
        return message

    def finish(self) -> None:
        """Wait until all that was handed over has left.

        Raises:
            StageError: a rank is lost.
        """
        for outbox in self._outbox.values():
            outbox.put(None)
        for thread in self._senders:
            while thread.is_alive():
                thread.join(0.2)
                if thread.is_alive():
                    self._check()

    def _send(self, kind: Kind, to: int) -> None:
        tag, outbox = _TAGS[kind], self._outbox[kind, to]
        while (message := outbox.get()) is not None:
            try:
                for tensor in (_header(message), *message.tensors):
                    point.send(
                        tensor.contiguous(), to, name=kind, tag=tag, group=self._group, counter=self._counter
                    )
            except RuntimeError:
                return  # the watch says who is gone, to those who wait

    def _receive(self, key: tuple[Kind, int], number: int) -> None:
        kind, source = key
        inbox, tag = self._inbox[key], _TAGS[kind]
        header = torch.empty(_HEADER, dtype=torch.int64)
        for _ in range(number):
            try:
                point.receive(header, source, tag=tag, group=self._group)
                index, tensors, wants = _announced(header.tolist())
                for tensor in tensors:
                    point.receive(tensor, source, tag=tag, group=self._group)
            except RuntimeError:
                return
            with self._changed:
                inbox.append(Message(index, tensors, wants))
                self._changed.notify_all()
                while len(inbox) >= _AHEAD:
                    self._changed.wait()


def _header(message: Message) -> Tensor:
    numbers = [message.batch, len(message.tensors)]
    for tensor, wanted in zip(message.tensors, message.wants, strict=True):
        numbers += [_DTYPES.index(tensor.dtype), int(wanted), tensor.ndim, *tensor.shape]
    assert len(numbers) <= _HEADER, "too many tensors between two stages"
    return torch.tensor(numbers + [0] * (_HEADER - len(numbers)), dtype=torch.int64)


def _announced(numbers: Sequence[int]) -> tuple[int, tuple[Tensor, ...], tuple[bool, ...]]:
    index, many = numbers[:2]
    at, tensors, wants = 2, [], []
    for _ in range(many):
        dtype, wanted, dims = numbers[at : at + 3]
        at += 3 + dims
        tensors.append(torch.empty(numbers[at - dims : at], dtype=_DTYPES[dtype]))
        wants.append(bool(wanted))
    return index, tuple(tensors), tuple(wants)
