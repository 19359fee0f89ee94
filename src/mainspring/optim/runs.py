"""Runs: stretches of memory that several parameters fill one after the other, to be updated as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mainspring.nn.dtensor import is_dtensor


@dataclass(frozen=True)
class Entry:
    """What an update needs of one parameter: dense tensors of equal size, seen flat."""

    p: Tensor
    m: Tensor
    v: Tensor
    g: Tensor
    out: Tensor | None
    step: int
    """Number of this update, from 1."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The four, and the copy if there is one."""
        four = (self.p, self.m, self.v, self.g)
        return four if self.out is None else (*four, self.out)

    @property
    def kind(self) -> tuple[torch.device, torch.dtype, torch.dtype, torch.dtype | None, int]:
        """Entries that differ in this cannot be one."""
        out = None if self.out is None else self.out.dtype
        return self.p.device, self.p.dtype, self.g.dtype, out, self.step


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor; parts of complex numbers as numbers of their own."""
    here = tensor.detach()
    here = here.to_local() if is_dtensor(here) else here
    return torch.view_as_real(here) if here.is_complex() else here


def flat(tensor: Tensor) -> Tensor | None:
    """A dense tensor in the order of memory; None where it has gaps or repeats."""
    if tensor.is_contiguous():
        return plain(tensor)
    strides = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    expected = 1
    for stride, size in strides:
        if size != 1 and stride != expected:
            return None
        expected *= size
    return plain(tensor)


def plain(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory."""
    flat = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return flat.set_(tensor.untyped_storage(), tensor.storage_offset(), (tensor.numel(),), (1,))


def is_next(before: Tensor, tensor: Tensor) -> bool:
    """Whether `tensor` begins where `before` ends, in one storage."""
    return (
        before.data_ptr() + before.numel() * before.element_size() == tensor.data_ptr()
        and before.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    )


def merge(entries: Iterable[Entry]) -> list[Entry]:
    """Join entries that follow each other in every one of their tensors."""
    chains: list[list[Entry]] = []
    for entry in sorted(entries, key=lambda e: e.p.data_ptr()):
        last = chains[-1][-1] if chains else None
        if last is not None and last.kind == entry.kind and all(map(is_next, last.tensors, entry.tensors)):
            chains[-1].append(entry)
        else:
            chains.append([entry])
    return [_joined(chain) for chain in chains]


def _joined(chain: list[Entry]) -> Entry:
    first = chain[0]
    if len(chain) == 1:
        return first
    size = sum(entry.p.numel() for entry in chain)

    def longer(tensor: Tensor) -> Tensor:
        whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        storage, start = tensor.untyped_storage(), tensor.storage_offset()
        return whole.set_(storage, start, (size,), (1,))

    p, m, v, g, *out = map(longer, first.tensors)
    return Entry(p, m, v, g, out[0] if out else None, first.step)


def adjacent(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Groups of tensors that follow each other in memory, of one dtype and device."""
    chains: list[list[Tensor]] = []
    for tensor in sorted(tensors, key=lambda t: t.data_ptr()):
        last = chains[-1][-1] if chains else None
        alike = last is not None and last.dtype == tensor.dtype and last.device == tensor.device
        if last is not None and alike and is_next(last, tensor):
            chains[-1].append(tensor)
        else:
            chains.append([tensor])
    return chains
