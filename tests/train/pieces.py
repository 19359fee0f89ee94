"""Models whose parameters are pieces of flat shards, made by hand."""

from __future__ import annotations

from torch import nn

from mainspring.nn.span import Span, mark


def cut(model: nn.Module, rank: int, world: int) -> None:
    """Leave in each parameter's place this rank's piece of it, all parameters laid end to end."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((module, name))
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    low, high = total * rank // world, total * (rank + 1) // world
    start = 0
    for parameter in parameters:
        size = parameter.numel()
        first, last = (min(max(0, at - start), size) for at in (low, high))
        flat = parameter.detach().reshape(-1)[first:last].clone()
        piece = nn.Parameter(flat, requires_grad=parameter.requires_grad)
        mark(piece, Span(parameter.shape, first, last))
        for module, name in places[id(parameter)]:
            module._parameters[name] = piece
        start += size
