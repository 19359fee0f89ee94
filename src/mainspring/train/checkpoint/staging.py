"""Copies of the state on the CPU, of which each rank makes its part, so that training can go on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor

from mainspring.nn.span import Span, cut_of, mark, span_of
from mainspring.train.checkpoint.boxes import Held, Leaf, held


def spread(tensors: Mapping[str, Leaf], rank: int, world: int) -> dict[str, Leaf]:
    """Leave this rank its part of the tensors that ranks hold whole; sharded and cut ones stay as they are.

    Replicated tensors are laid end to end, by name, and cut in `world` equal parts; so all ranks write as
    much. Numbers stay with every rank: one that has no state of a parameter has no count of its steps either.

    Args:
        tensors: by name; the replicated ones are the same on these ranks, in name and shape.
        rank, world: which part.
    """
    shared = {name: t for name, t in sorted(tensors.items()) if isinstance(t, Tensor) and _replicated(t)}
    total = sum(tensor.nbytes for tensor in shared.values())
    cuts = (total * rank // world, total * (rank + 1) // world)
    result = {name: tensor for name, tensor in tensors.items() if name not in shared}
    start = 0
    for name, tensor in shared.items():
        # Bytes to elements, rounded alike by both neighbours of a cut.
        first, last = (min(max(0, cut - start) // tensor.element_size(), tensor.numel()) for cut in cuts)
        if first < last:
            piece = tensor.detach().reshape(-1)[first:last]
            mark(piece, Span(tensor.shape, first, last))
            result[name] = piece
        start += tensor.nbytes
    return result


def stage(tensors: Mapping[str, Leaf], rank: int, world: int) -> dict[str, Held]:
    """Copies on the CPU of what this one of `world` ranks holds and has to write.

    Raises:
        CheckpointError: one of `tensors` is no tensor or has no values.
    """
    if world > 1:
        tensors = spread(tensors, rank, world)
    return {name: held(name, tensor).copied() for name, tensor in tensors.items()}


def _replicated(tensor: Tensor) -> bool:
    if isinstance(tensor, DTensor) or span_of(tensor) is not None or cut_of(tensor) is not None:
        return False
    return tensor.ndim > 0 and tensor.numel() > 0
