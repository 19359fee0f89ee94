"""Messages of a few tensors between the ranks of a pipeline.

Sender and receiver both know when a message is the first of its kind (what it is for, and the shapes of the
micro-batch); only then do the shapes, dtypes and flags of its tensors go ahead of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring.comm import Counter

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.bool)
_DIMS = 6
_FIELDS = 4 + _DIMS


class Tag(IntEnum):
    """What a message is for. Messages of one tag between two ranks arrive in their order."""

    FORWARD = 2
    BACKWARD = 3
    LOAN = 4
    RETURN = 5

    @property
    def head(self) -> int:
        """The tag of what describes a message."""
        return self + len(Tag)


class Sheet(NamedTuple):
    """What a message holds at one place."""

    shape: torch.Size
    dtype: torch.dtype
    trained: bool
    """Whether a gradient comes back."""


Sheets = tuple[Sheet | None, ...]
"""Of each place of a message; None where there is no tensor."""


def sheets_of(tensors: Sequence[Tensor | None]) -> Sheets:
    """The description of a message."""
    return tuple(None if t is None else Sheet(t.shape, t.dtype, t.requires_grad) for t in tensors)


class Mail:
    """Sends and receives over a group.

    Args:
        group: the ranks of the pipeline.
        counter: told what is sent.
        device: where tensors are.
    """

    def __init__(self, group: dist.ProcessGroup, counter: Counter, device: torch.device) -> None:
        self.group, self.counter, self.device = group, counter, device
        self._known: dict[Hashable, Sheets] = {}
        self._going: list[tuple[dist.Work, Tensor]] = []

    def describe(self, tag: Tag, key: Hashable, tensors: Sequence[Tensor | None], to: int) -> None:
        """Let the receiver of a message know what comes, if this is the first of its kind.

        Args:
            tag: of the message.
            key: its kind; the same at both ends.
            tensors: of the message, with None where there is nothing.
            to: the receiver's place in the group.
        """
        if key in self._known:
            return
        self._known[key] = sheets_of(tensors)
        head = _written(self._known[key], self.device)
        self._start(dist.P2POp(dist.isend, head, group=self.group, group_peer=to, tag=tag.head))
        self.counter.add("headers", "send", head.numel() * 8, 2, wire=head.numel() * 8)

    def expect(self, tag: Tag, key: Hashable, places: int, source: int) -> Sheets:
        """What comes in a message of that kind and of so many places."""
        if key not in self._known:
            head = torch.empty((places, _FIELDS), dtype=torch.int64, device=self.device)
            self.receive([dist.P2POp(dist.irecv, head, group=self.group, group_peer=source, tag=tag.head)])
            self._known[key] = _read(head)
        return self._known[key]

    def posts(self, name: str, tag: Tag, tensors: Sequence[Tensor | None], to: int) -> list[dist.P2POp]:
        """What is to be started to send a message, counted under `name`."""
        found = [t.detach().contiguous() for t in tensors if t is not None]
        size = sum(t.numel() * t.element_size() for t in found)
        self.counter.add(name, "send", size, 2, wire=size)
        return [dist.P2POp(dist.isend, t, group=self.group, group_peer=to, tag=tag) for t in found]

    def takes(self, tag: Tag, sheets: Sheets, source: int) -> tuple[list[dist.P2POp], list[Tensor | None]]:
        """What is to be started to receive a message, and where it will be."""
        tensors = [s and torch.empty(s.shape, dtype=s.dtype, device=self.device) for s in sheets]
        there = [t for t in tensors if t is not None]
        return [
            dist.P2POp(dist.irecv, t, group=self.group, group_peer=source, tag=tag) for t in there
        ], tensors

    def send(self, ops: Sequence[dist.P2POp]) -> None:
        """Start sending; `settle` waits for it."""
        for op in ops:
            self._start(op)

    def receive(self, ops: Sequence[dist.P2POp]) -> None:
        """Receive now."""
        for work in [op.op(op.tensor, group=op.group, tag=op.tag, group_src=op.group_peer) for op in ops]:
            work.wait()

    def settle(self) -> None:
        """Wait until all that was sent has left."""
        while self._going:
            self._going.pop()[0].wait()

    def _start(self, op: dist.P2POp) -> None:
        work = op.op(op.tensor, group=op.group, tag=op.tag, group_dst=op.group_peer)
        self._going.append((work, op.tensor))


def _written(sheets: Sheets, device: torch.device) -> Tensor:
    rows = []
    for sheet in sheets:
        if sheet is None:
            rows.append([0] * _FIELDS)
            continue
        assert len(sheet.shape) <= _DIMS, "a tensor of more dimensions than a message can describe"
        shape = [*sheet.shape, *[0] * (_DIMS - len(sheet.shape))]
        rows.append([1, _DTYPES.index(sheet.dtype), int(sheet.trained), len(sheet.shape), *shape])
    return torch.tensor(rows, dtype=torch.int64, device=device)


def _read(head: Tensor) -> Sheets:
    return tuple(
        Sheet(torch.Size(shape[:dims]), _DTYPES[dtype], bool(trained)) if there else None
        for there, dtype, trained, dims, *shape in head.tolist()
    )
