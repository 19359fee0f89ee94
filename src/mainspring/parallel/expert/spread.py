"""Spread the experts of a model's layers over ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mainspring.comm import Counter
from mainspring.errors import PlanError
from mainspring.nn.moe import ExpertFeedForward, ExpertMaps
from mainspring.nn.span import Cut, cut_of, mark_cut
from mainspring.parallel.broadcast import broadcast_tensors
from mainspring.parallel.expert.exchange import Across
from mainspring.parallel.mesh import Axes
from mainspring.parallel.strategy import on_meta
from mainspring.parallel.tensor.operators import Line

NAME = "experts"
"""What the traffic of rows to experts and back is counted as."""


def spread_experts(model: nn.Module, axes: Axes, counter: Counter) -> None:
    """Leave on each rank of the expert axis an equal run of each layer's experts, in place.

    Args:
        model: with storage (the first rank's values are taken) or on meta; whole, or a stage of a pipeline,
            which may have no experts. Whether they can be shared out is known (`expert_layers`).
        axes: the mesh.
        counter: told the traffic.
    """
    group = axes.group("expert")
    assert group is not None
    layers = [module for module in model.modules() if isinstance(module, ExpertFeedForward)]
    line = Line(group, axes.index("expert"), axes.size("expert"), counter, NAME)
    if not on_meta(model.parameters()):
        broadcast_tensors([*model.parameters(), *model.buffers()], name="start", group=group, counter=counter)
    for layer in layers:
        layer.exchange = Across(line)
        for module in layer.experts.modules():
            if isinstance(module, ExpertMaps):
                for parameter in module.parameters():
                    keep_own(parameter, module.expert_dim, line)


def expert_layers(model: nn.Module, ranks: int) -> list[ExpertFeedForward]:
    """The model's layers of experts, if ranks can share out each one's experts equally.

    Raises:
        PlanError: the model has no layers of experts, or their numbers cannot be shared out equally.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, ExpertFeedForward)}
    if not layers:
        raise PlanError(
            f"plan.expert = {ranks}: {type(model).__name__} has no layers of experts; set expert = 1, or "
            "give the model experts (config.experts)"
        )
    for name, layer in layers.items():
        if layer.gate.count % ranks:
            counts = [one.gate.count for one in layers.values()]
            legal = [n for n in range(1, min(counts) + 1) if all(count % n == 0 for count in counts)]
            near = sorted(sorted(legal, key=lambda n: abs(n - ranks))[:2])
            raise PlanError(
                f"plan.expert = {ranks}: {name} has {layer.gate.count} experts, which {ranks} ranks cannot "
                f"share equally; nearest legal plan.expert: {' or '.join(str(n) for n in near)}"
            )
    return list(layers.values())


@torch.no_grad()
def keep_own(parameter: Tensor, dim: int, line: Line) -> None:
    """Leave in a parameter this rank's equal part of dimension `dim`."""
    cut = cut_of(parameter)
    cut = Cut.whole(parameter.shape) if cut is None else cut
    length = parameter.shape[dim] // line.size
    part = parameter.narrow(dim, line.index * length, length)
    parameter.data = part.clone(memory_format=torch.contiguous_format)
    mark_cut(parameter, cut.narrow(dim, line.index * length, length, "expert"))
