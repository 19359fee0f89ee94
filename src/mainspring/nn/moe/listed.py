"""Experts as linear maps of their own: for who replaces or records them map by map, and stacks none.

Legend: N rows, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from mainspring.nn.feed_forward import apply_activation
from mainspring.nn.linear import Linear, LinearMap
from mainspring.nn.moe.experts import ExpertMaps, Experts
from mainspring.nn.moe.layer import ExpertFeedForward


class ExpertList(nn.Module):
    """The experts of a layer in the place of `Experts`, whose weights it shares; for inference."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.activation = experts.activation
        self.up = nn.ModuleList(_linears(experts.up))
        self.down = nn.ModuleList(_linears(experts.down))

    def expert(self, number: int, rows: Tensor) -> Tensor:
        """What one expert makes of rows [N, D]: [N, D]."""
        up = self.up[number]
        inner = up.activated(rows, self.activation) if isinstance(up, LinearMap) else None
        out: Tensor = self.down[number](
            apply_activation(self.activation, up(rows)) if inner is None else inner
        )
        return out

    def forward(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Apply expert e to its rows, as `Experts.forward`: [N, D] -> [N, D]."""
        ends = zip(counts, accumulate(counts), strict=True)
        made = [self.expert(n, rows[end - count : end]) for n, (count, end) in enumerate(ends) if count]
        return torch.cat(made) if made else rows


def list_experts(model: nn.Module) -> None:
    """Have `ExpertList` in the place of all stacked experts of a model."""
    for layer in [module for module in model.modules() if isinstance(module, ExpertFeedForward)]:
        if isinstance(layer.experts, Experts):
            layer.set_submodule("experts", ExpertList(layer.experts))


def _linears(maps: ExpertMaps) -> list[Linear]:
    """A linear map for each expert, without a copy."""
    count, outputs, inputs = maps.weight.shape
    biases = maps.biases
    found = []
    for number in range(count):
        with torch.device("meta"):
            one = Linear(inputs, outputs, bias=biases is not None)
        one.weight = nn.Parameter(maps.weight.detach()[number], requires_grad=False)
        if biases is not None:
            one.bias = nn.Parameter(biases.detach()[number], requires_grad=False)
        found.append(one)
    return found
