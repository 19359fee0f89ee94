"""Low-rank updates of frozen linear maps (LoRA, Hu et al. 2021, arXiv 2106.09685, equation 3).

A map x W^T becomes x W^T + (x A^T) B^T with A [r, in] and B [out, r], of which W is frozen. B starts at 0, so
that a model with updates begins as the model without. `fold` adds B A to W: what is trained costs nothing
when it is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.errors import UsageError
from mainspring.nn.linear import Closing, Linear


class LowRankLinear(Closing):
    """A frozen linear map and its update."""

    def __init__(self, base: Linear, rank: int, generator: torch.Generator) -> None:
        """Take over a map's parameters, frozen, and add an update that is 0.

        Args:
            base: the map.
            rank: r.
            generator: of what A is drawn from.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.normal_(self.down, std=base.in_features**-0.5, generator=generator)

    def product(self, input: Tensor, bias: Tensor | None) -> Tensor:
        """The map and its update with a bias [out]: [..., in] -> [..., out]."""
        return super().product(input, bias) + F.linear(F.linear(input, self.down), self.up)

    def folded(self) -> Linear:
        """One map that does the same."""
        plain = Closing(self.in_features, self.out_features, bias=self.bias is not None)
        with torch.no_grad():
            plain.weight.copy_(self.weight + self.up @ self.down)
            if self.bias is not None:
                plain.bias.copy_(self.bias)
        return plain


def adapt(module: nn.Module, rank: int, generator: torch.Generator) -> None:
    """Give every linear map in a module an update, in place.

    Args:
        module: what holds the maps.
        rank: of the updates.
        generator: of what is drawn.

    Raises:
        UsageError: the rank is below 1, or there is no linear map.
    """
    if rank < 1:
        raise UsageError(f"rank = {rank}: a low-rank update has rank 1 or more")
    found = [
        (parent, name)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, Linear) and not isinstance(child, LowRankLinear)
    ]
    if not found:
        raise UsageError(f"{type(module).__name__} has no linear map to adapt")
    for parent, name in found:
        setattr(parent, name, LowRankLinear(getattr(parent, name), rank, generator))


def fold(module: nn.Module) -> None:
    """Replace maps that have an update by plain ones that do the same, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRankLinear):
                setattr(parent, name, child.folded())
