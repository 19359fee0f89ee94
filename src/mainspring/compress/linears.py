"""The weight matrices of a model's layers: what is narrowed, pruned and measured, by name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from mainspring.nn.linear import Linear
from mainspring.nn.transformer import Transformer


def linears(model: Transformer) -> dict[str, Linear]:
    """Every linear map inside the layers, by its name in the model, in the order of computation."""
    layers = {id(module) for block in model.blocks() for module in block.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Linear) and id(module) in layers
    }


def tables(model: Transformer) -> dict[str, nn.Embedding]:
    """Tables of tokens: the embeddings', and a head's own."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name in ("embeddings.token", "head.table")
    }


def layer_of(name: str, stacks: Iterable[str] = ("encoder.", "layers.")) -> str:
    """The layer that a parameter belongs to, as "layers.3"; the name itself outside the layers."""
    if name.startswith(tuple(stacks)):
        return ".".join(name.split(".")[:2])
    return name
