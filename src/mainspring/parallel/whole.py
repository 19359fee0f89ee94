"""Tensors by name of a model that is spread without flat shards, and whole ones out of boxes of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring import comm
from mainspring.nn.span import cut_of, mark, mark_cut, span_of
from mainspring.parallel.mesh import Axes


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and the buffers that are saved, under every name that they have, in the state dict's
    order."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                yield dot + leaf, parameter
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield dot + leaf, buffer


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Each tensor under its first name, detached, with its marks."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in named_tensors(model):
        found.setdefault(id(tensor), (name, tensor))
    return {name: _detached(tensor) for name, tensor in found.values()}


def _detached(tensor: Tensor) -> Tensor:
    detached = mark_cut(tensor.detach(), cut_of(tensor))
    if (span := span_of(tensor)) is not None:
        mark(detached, span)
    return detached


@torch.no_grad()
def whole(box: Tensor, axes: Axes, counter: comm.Counter) -> Tensor:
    """The whole tensor of which the ranks of some axes hold boxes; every rank of these calls it.

    Args:
        box: marked with its cut; of one that is not, and of a DTensor, there is no box.
        axes: the mesh.
        counter: told the traffic.
    """
    if isinstance(box, DTensor):
        return box.full_tensor()
    cut = cut_of(box)
    if cut is None:
        return box
    joined = box.new_zeros(cut.shape)
    cut.of(joined).copy_(box)
    for axis in cut.axes:
        comm.all_reduce(joined, name="state", group=axes.group(axis), counter=counter)
    return joined
