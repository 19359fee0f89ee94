"""Count the parameters of what is trained by kind, on the meta device: no memory is taken."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from mainspring.config import Section
from mainspring.nn import Transformer, TransformerConfig
from mainspring.objectives import Objective, assemble
from mainspring.planner.inventory import Backend, take_inventory


class ParameterCount(Section):
    """Numbers of parameters of a model, and of the fullest rank's shard of it."""

    total: int
    """All parameters that are held; tied ones once."""
    network: int
    """Those of the network as it is without what the objective owns or shares with it."""
    by_kind: dict[str, int]
    """embeddings, attention, feed_forward, norms, head of the network, and what the objective owns beside
    it: they add up to `total`."""
    trainable: int
    """Parameters that are trained (a slow copy is not)."""
    matrix: int
    """Weights of matrix products a token passes through in the network's layers (the embedding look-up is
    none; of experts those that it takes)."""
    head_matrix: int
    """Weights of the products of the network's prediction head, tied or not."""
    largest_unit: int
    """Parameters of the largest unit that ZeRO gathers as a whole: a layer or the rest."""
    largest_layer: int
    """Parameters of the largest layer."""
    root: int
    """Parameters outside the layers."""
    shard: int = Field(ge=0)
    """Parameters that the fullest of `ranks` ranks keeps."""
    ranks: int = 1


def count_parameters(
    config: TransformerConfig,
    ranks: int = 1,
    *,
    objective: Objective | None = None,
    backend: Backend = "flat",
) -> ParameterCount:
    """Count the parameters of `config`, and the fullest shard when they are sharded over `ranks` ranks.

    Args:
        config: the network.
        ranks: that shards are spread over.
        objective: adds what it owns beside the network.
        backend: how they are cut: flat shards element by element, FSDP2 row by row.
    """
    with torch.device("meta"):
        network = Transformer(config)
        own = {id(p) for p in network.parameters()}
        kinds = dict.fromkeys(("embeddings", "attention", "feed_forward", "norms", "head"), 0)
        matrix = head = 0
        for name, parameter in network.named_parameters():
            kind = _kind(name)
            kinds[kind] += parameter.numel()
            if parameter.ndim == 2 and kind in ("attention", "feed_forward"):
                matrix += parameter.numel()
            elif parameter.ndim == 3 and ".experts." in name and config.experts is not None:
                matrix += parameter[0].numel() * config.experts.top_k  # a token takes few of them
            elif parameter.ndim == 2 and kind == "head" and not name.startswith("pooler"):
                head += parameter.numel()
        if config.tied and config.head == "tokens":
            head += config.vocab_size * config.embed_width
        model: nn.Module = network if objective is None else assemble(objective, network)
    inventory = take_inventory(model)
    alone = sum(kinds.values())
    beside = sum(p.numel() for p in model.parameters() if id(p) not in own)
    if beside:
        kinds["beside the network"] = beside
        shared = sum(kinds.values()) - inventory.total
        kinds["embeddings"] -= shared  # a table that the objective gave the network in place of its own
    return ParameterCount(
        total=inventory.total,
        network=alone,
        by_kind=kinds,
        trainable=inventory.trainable,
        matrix=matrix,
        head_matrix=head,
        root=inventory.root.numel,
        shard=inventory.share(ranks, backend),
        largest_unit=max(unit.numel for unit in inventory.units),
        largest_layer=inventory.largest_block,
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
