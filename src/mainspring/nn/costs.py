"""How much a module computes for a token."""

from __future__ import annotations

from torch import nn

from mainspring.nn.moe.experts import ExpertMaps


def multiply_adds(module: nn.Module, experts: int = 1) -> float:
    """Multiplications of a token with the matrices of a module.

    Lookups in tables count nothing, and neither do products of activations (attention's scores).

    Args:
        module: any module.
        experts: of a layer with experts, how many a token takes.
    """
    met = 0.0
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            continue
        share = experts / part.weight.shape[0] if isinstance(part, ExpertMaps) else 1.0
        met += share * sum(p.numel() for p in part.parameters(recurse=False) if p.ndim > 1)
    return met
