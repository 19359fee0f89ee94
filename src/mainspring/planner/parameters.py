"""Count the parameters of a transformer by kind, on the meta device: no memory is taken."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn

from mainspring.config import Section
from mainspring.nn import Transformer, TransformerConfig


class ParameterCount(Section):
    """Numbers of parameters of a model, and of the fullest rank's shard of it."""

    total: int
    """All parameters; tied ones once."""
    by_kind: dict[str, int]
    """embeddings, attention, feed_forward, norms, head: they add up to `total`."""
    matrix: int
    """Weights of matrix products a token passes through in the layers (the embedding look-up is none)."""
    head_matrix: int
    """Weights of the products of the prediction head, tied or not."""
    largest_unit: int
    """Parameters of the largest unit that ZeRO gathers as a whole: a layer or the rest."""
    largest_layer: int
    """Parameters of the largest layer."""
    root: int
    """Parameters outside the layers."""
    shard: int = Field(ge=0)
    """Parameters the fullest of `ranks` ranks keeps: rows of each tensor are shared out, rounded up."""
    ranks: int = 1


def count_parameters(config: TransformerConfig, ranks: int = 1) -> ParameterCount:
    """Count the parameters of `config`, and the fullest shard when they are sharded over `ranks` ranks."""
    with torch.device("meta"):
        model = Transformer(config)
    kinds = dict.fromkeys(("embeddings", "attention", "feed_forward", "norms", "head"), 0)
    matrix = head = shard = 0
    for name, parameter in model.named_parameters():
        kind = _kind(name)
        kinds[kind] += parameter.numel()
        shard += math.ceil(parameter.shape[0] / ranks) * math.prod(parameter.shape[1:])
        if parameter.ndim == 2 and kind in ("attention", "feed_forward"):
            matrix += parameter.numel()
        elif parameter.ndim == 2 and kind == "head" and not name.startswith("pooler"):
            head += parameter.numel()
    if config.tied and config.head == "tokens":
        head += config.vocab_size * config.embed_width
    total = sum(kinds.values())
    blocks = [_size(block) for block in model.blocks()]
    root = total - sum(blocks)
    return ParameterCount(
        total=total,
        by_kind=kinds,
        matrix=matrix,
        head_matrix=head,
        root=root,
        shard=shard,
        largest_unit=max([root, *blocks]),
        largest_layer=max(blocks),
        ranks=ranks,
    )


def _kind(name: str) -> str:
    if "norm" in name:
        return "norms"
    if name.startswith(("head", "pooler")):
        return "head"
    if "feed_forward" in name:
        return "feed_forward"
    if name.startswith(("layers", "encoder.")):
        return "attention"
    return "embeddings"


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
