"""Data parallelism with replicated states (ZeRO stage 0): gradients are all-reduced in buckets during
backward.

The scheme is that of PyTorch DDP (Li et al. 2020, arXiv 2006.15704, section 3.2): flat buckets of about 25 MB
in the reverse order of the parameters, each reduced as soon as its last gradient is there, gradients being
views of the buckets. Three things differ. The order of collectives is fixed, and what a rank did not use is
sent as zero at the end of backward, so ranks that take different paths do not hang. A flag for each parameter
travels in its bucket, so that a parameter used by no rank keeps a gradient of None, as in one process. And
gradients can be summed as well as averaged. They may travel in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mainspring import comm

BUCKET_BYTES = 25 * 2**20
FIRST_BUCKET_BYTES = 2**20
"""The first bucket is small: its reduction starts early."""


@dataclass(eq=False)
class _Slot:
    """Where the gradient of one parameter lives."""

    name: str
    parameter: nn.Parameter
    view: Tensor = field(init=False)
    flag: int = 0
    arrived: bool = False
    """Whether this backward brought a gradient."""
    reduced: bool = False
    """Whether the view holds a result of reduction, equal on all ranks (plus nothing of this backward)."""

    @property
    def holds(self) -> bool:
        return self.parameter.grad is self.view


class _Bucket:
    """A flat buffer: the gradients of some parameters, then one flag for each."""

    def __init__(self, slots: list[_Slot]) -> None:
        self.slots = slots
        first = slots[0].parameter
        total = sum(slot.parameter.numel() for slot in slots)
        self.flat = torch.zeros(total + len(slots), dtype=first.dtype, device=first.device)
        self.flags = self.flat[total:]
        offset = 0
        for index, slot in enumerate(slots):
            shape, stride = slot.parameter.shape, slot.parameter.stride()
            # A gradient has the strides of its parameter where these are dense (channels last), else
            # row-major.
            flat = self.flat[offset : offset + slot.parameter.numel()]
            dense = torch.empty_like(slot.parameter, device="meta").stride() == stride
            slot.view = flat.as_strided(shape, stride) if dense else flat.view(shape)
            slot.flag = index
            offset += slot.parameter.numel()
        self.sent = self.flat
        """What travels."""
        self.pending = len(slots)
        self.work: comm.Pending | None = None


class GradientReducer:
    """Reduces the gradients of a fixed set of parameters over a process group.

    Args:
        named: trainable parameters by name, each once, equal and in the same order on every rank.
        group: the ranks that share a batch.
        reduce: whether gradients are averaged or summed over ranks.
        counter: told every reduction, under the name "gradients".
        bucket_bytes: size at which a bucket is full.
        low: dtype in which fp32 gradients travel; None for theirs.
    """

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        group: dist.ProcessGroup | None,
        reduce: Literal["mean", "sum"],
        counter: comm.Counter,
        bucket_bytes: int = BUCKET_BYTES,
        low: torch.dtype | None = None,
    ) -> None:
        self.sync = True
        self.local = False
        """Whether gradients stay this rank's own also in a step's last backward."""
        self._group, self._reduce, self._counter = group, reduce, counter
        self._share = 1 / dist.get_world_size(group)
        self._low = low
        self._buckets = _fill_buckets([_Slot(n, p) for n, p in named.items()], bucket_bytes)
        self._next = 0
        self._running = False
        self._handles: list[Any] = []
        for bucket in self._buckets:
            for slot in bucket.slots:
                self._hook(slot, bucket)

    def close(self) -> None:
        """Take the hooks off; gradients stay where they are."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward inside only accumulates on this rank."""
        before, self.sync = self.sync, False
        try:
            yield
        finally:
            self.sync = before

    def reset(self) -> None:
        """Forget a backward that was broken off by an error."""
        if not self._running:
            return
        for bucket in self._buckets:
            if bucket.work is not None:
                bucket.work.wait()
        self._rewind()

    def expect(self, output: Any) -> None:
        """Take part in the backward through `output` (nested tensors) even if it brings no gradient here."""
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: self._begin())  # type: ignore[no-untyped-call]

    def _begin(self) -> None:
        """Have `_finish` called at the end of the backward under way."""
        if self.sync and not self.local and not self._running:
            self._running = True
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)

    def _hook(self, slot: _Slot, bucket: _Bucket) -> None:
        parameter: Any = slot.parameter  # torch leaves the types of both hooks out
        handle = parameter.register_post_accumulate_grad_hook(lambda _: self._arrive(slot, bucket))
        self._handles.append(handle)
        if self._reduce == "sum":
            self._handles.append(parameter.register_hook(lambda _: self._share_out(slot)))

    def _share_out(self, slot: _Slot) -> None:
        """Before a gradient is added to a sum over ranks: keep only this rank's share of that sum."""
        if slot.reduced and slot.holds:
            slot.view.mul_(self._share)
            slot.reduced = False

    def _arrive(self, slot: _Slot, bucket: _Bucket) -> None:
        gradient = slot.parameter.grad
        if gradient is not slot.view and gradient is not None:
            slot.view.copy_(gradient.detach())
            slot.parameter.grad = slot.view
        slot.reduced = False
        if not self.sync or self.local:
            return
        self._begin()
        assert not slot.arrived, f"the gradient of {slot.name} arrived twice in one backward"
        slot.arrived = True
        bucket.pending -= 1
        self._launch_ready()

    def _launch_ready(self) -> None:
        """Start every bucket that is complete, strictly in order: all ranks issue the same sequence."""
        while self._next < len(self._buckets) and self._buckets[self._next].pending == 0:
            self._launch(self._buckets[self._next])

    def _launch(self, bucket: _Bucket) -> None:
        bucket.flags.fill_(1.0)
        for slot in bucket.slots:
            if not slot.arrived and not self._keep(slot):
                bucket.flags[slot.flag] = 0.0
        lowered = self._low is not None and bucket.flat.dtype == torch.float32
        bucket.sent = bucket.flat.to(self._low) if lowered else bucket.flat
        bucket.work = comm.all_reduce(
            bucket.sent,
            name="gradients",
            op=self._reduce,
            group=self._group,
            counter=self._counter,
            async_op=True,
        )
        self._next += 1

    def _keep(self, slot: _Slot) -> bool:
        """Make the view of a parameter without a new gradient ready to send; False where there is nothing."""
        gradient = slot.parameter.grad
        if gradient is None:
            slot.view.zero_()
            return False
        if gradient is not slot.view:
            slot.view.copy_(gradient)
        elif slot.reduced and self._reduce == "sum":
            slot.view.mul_(self._share)
        return True

    def _finish(self) -> None:
        """At the end of backward: send what is left and wait for all of it."""
        while self._next < len(self._buckets):
            self._launch(self._buckets[self._next])
        for bucket in self._buckets:
            if bucket.work is not None:
                bucket.work.wait()
            if bucket.sent is not bucket.flat:
                bucket.flat.copy_(bucket.sent)
            unused = [slot for slot in bucket.slots if not slot.arrived]
            used = bucket.flags.tolist() if unused else []
            for slot in bucket.slots:
                there = slot.arrived or used[slot.flag] > 0
                slot.parameter.grad = slot.view if there else None
                slot.reduced = there
        self._rewind()

    def _rewind(self) -> None:
        for bucket in self._buckets:
            bucket.pending, bucket.work, bucket.sent = len(bucket.slots), None, bucket.flat
            for slot in bucket.slots:
                slot.arrived = False
        self._next, self._running = 0, False


def _fill_buckets(slots: list[_Slot], bucket_bytes: int) -> list[_Bucket]:
    """Share out parameters in reverse order; a bucket holds one dtype on one device."""
    groups: list[list[_Slot]] = []
    open_groups: dict[tuple[torch.dtype, torch.device], tuple[list[_Slot], int]] = {}
    limit = min(FIRST_BUCKET_BYTES, bucket_bytes)
    for slot in reversed(slots):
        parameter = slot.parameter
        key = (parameter.dtype, parameter.device)
        members, size = open_groups.pop(key, ([], 0))
        members.append(slot)
        size += parameter.numel() * parameter.element_size()
        if size >= limit:
            groups.append(members)
            limit = bucket_bytes
        else:
            open_groups[key] = (members, size)
    groups += [members for members, _ in open_groups.values()]
    return [_Bucket(members) for members in groups]
