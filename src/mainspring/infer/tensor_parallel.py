"""Tensor-parallel inference: a model's matrices lie on several ranks, each of which keeps its heads' keys.

Every rank runs the same calls on the same prompts; what leaves the model is the same on all of them, so all
choose the same tokens (Shoeybi et al. 2019, arXiv 1909.08053; DeepSpeed-Inference cuts in the same way). A
rank never holds more than its own part and one whole tensor, which may be a view of a mapped file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mainspring.errors import PlanError, WeightsError, few
from mainspring.infer.load import Network, Shape
from mainspring.nn.span import cut_of
from mainspring.parallel import Plan, apply


@dataclass(frozen=True, slots=True)
class RankReport:
    """What one rank of a generation took."""

    rank: int
    weights: int
    """Bytes of this rank's parameters."""
    memory: int
    """Bytes resident in memory at most so far; on CUDA, allocated at most."""
    prefill: float
    """Seconds from the call to the first token."""
    token: float
    """Seconds of each token after it, on average."""


def check_plan(plan: Plan) -> None:
    """Refuse what has no meaning for a model that is run and not trained.

    Raises:
        PlanError: names the fields.
    """
    others = [name for name in ("data", "sequence", "pipeline", "expert") if getattr(plan, name) > 1]
    others += [name for name in ("tensor_sequence",) if getattr(plan, name)]
    others += ["zero"] * (plan.zero > 0) + ["offload"] * (plan.offload != "none")
    if others:
        raise PlanError(
            f"a model is run with plan.tensor alone; leave out plan.{few(others, ', plan.')} (several copies "
            f"are several processes)"
        )


def spread(
    shape: Shape, state: Mapping[str, Tensor], plan: Plan, dtype: torch.dtype, device: torch.device
) -> Network:
    """This rank's part of a network. Every rank of the plan calls it.

    Args:
        shape: the network.
        state: its whole tensors, of which each rank takes its part.
        plan: its `tensor` counts.
        dtype: of the parameters.
        device: where this rank's part goes.

    Raises:
        PlanError: the plan has other axes, or its world is not the number of ranks, or heads or columns
            cannot be shared out; names the nearest legal number.
        WeightsError: names or shapes differ.
    """
    check_plan(plan)
    model = apply(shape.build(), plan)
    parts: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name not in state:
            raise WeightsError(f"the weights do not fit the model: {name} is missing")
        whole, cut = state[name], cut_of(parameter)
        if whole.shape != (parameter.shape if cut is None else cut.shape):
            wanted = list(parameter.shape if cut is None else cut.shape)
            raise WeightsError(
                f"the weights do not fit the model: {name} is {list(whole.shape)}, not {wanted}"
            )
        part = whole if cut is None else cut.of(whole)
        # A copy, so that this rank's memory does not hold on to the whole.
        parts[name] = part.to(device, dtype, copy=True).contiguous()
    model.load_state_dict(parts, assign=True)
    return model.eval().requires_grad_(False)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers in this process."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had in memory at most; on CUDA, that were allocated at most."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def gather_reports(report: RankReport) -> Sequence[RankReport]:
    """The reports of all ranks, in order. Every rank calls it."""
    if not dist.is_initialized():
        return [report]
    found: list[RankReport | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, report)
    return [one for one in found if one is not None]
