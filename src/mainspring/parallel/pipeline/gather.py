"""The tensors of all stages on one rank, or on all."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring import comm


def gather_stages(
    found: dict[str, Tensor], group: dist.ProcessGroup, counter: comm.Counter, keep: bool
) -> dict[str, Tensor]:
    """Join what the ranks of a pipeline have, by name, one tensor at a time. Every rank of it calls this.

    Args:
        found: this rank's tensors, on the CPU.
        group: the ranks of the pipeline.
        counter: told the traffic.
        keep: whether this rank wants the result; else it gets {}.
    """
    joined: dict[str, Tensor] = {}
    here = dist.get_rank(group)
    for source in range(dist.get_world_size(group)):
        told: list[Any] = [[(name, t.shape, t.dtype) for name, t in found.items()]]
        dist.broadcast_object_list(told, group_src=source, group=group)
        for name, shape, dtype in told[0]:
            tensor = found[name] if source == here else torch.empty(shape, dtype=dtype)
            comm.broadcast(tensor, name="state", source=source, group=group, counter=counter)
            if keep:
                joined[name] = tensor
    return joined
