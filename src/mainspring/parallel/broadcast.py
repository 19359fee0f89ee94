"""Make every rank start from the tensors of rank 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring import comm

CHUNK_BYTES = 64 * 2**20


def broadcast_tensors(
    tensors: Iterable[Tensor], *, name: str, group: dist.ProcessGroup | None, counter: comm.Counter | None
) -> None:
    """Overwrite `tensors` with those of the group's first rank, in flat chunks of about 64 MB.

    Every rank must give the same shapes and dtypes in the same order; a tensor given twice is sent once.
    """
    unique = {id(t): t.detach() for t in tensors}.values()
    for chunk in _chunks(unique):
        if len(chunk) == 1 and chunk[0].is_contiguous():
            comm.broadcast(chunk[0], name=name, group=group, counter=counter)
            continue
        flat = torch.cat([t.reshape(-1) for t in chunk])
        comm.broadcast(flat, name=name, group=group, counter=counter)
        for tensor, values in zip(chunk, torch.split(flat, [t.numel() for t in chunk]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def _chunks(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one dtype and device, of about `CHUNK_BYTES` each."""
    chunk: list[Tensor] = []
    size = 0
    for tensor in tensors:
        other = chunk and (chunk[0].dtype, chunk[0].device) != (tensor.dtype, tensor.device)
        if chunk and (other or size >= CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if chunk:
        yield chunk
