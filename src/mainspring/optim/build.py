"""Make a torch optimizer from its settings and a model's parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mainspring.nn.span import logical_shape, span_of
from mainspring.optim.config import OptimConfig
from mainspring.optim.flat import FlatAdam
from mainspring.optim.lamb import Join, Lamb


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: tensors of two and more dimensions, decayed; the rest (biases, norms), never decayed.

    Frozen parameters are left out; a parameter given twice (tied weights) is taken once. A piece of a
    parameter goes where the whole would.
    """
    unique = {id(p): p for p in parameters if p.requires_grad}.values()
    groups = [
        {"params": [p for p in unique if len(logical_shape(p)) >= 2], "weight_decay": weight_decay},
        {"params": [p for p in unique if len(logical_shape(p)) < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build(model: nn.Module, config: OptimConfig, *, join: Join | None = None) -> torch.optim.Optimizer:
    """The optimizer of `config` over the trainable parameters of `model`: whole, DTensors, or pieces.

    Call it after `parallel.apply` and `parallel.materialize`: both may replace parameters. Clipping is the
    training loop's (`parallel.clip_grad_norm`), and so is setting `group["lr"]` from `schedules.lr`.

    AdamW over whole parameters is torch's, whose fused kernel is one pass over memory already; pieces of
    sharded parameters, with gradients in 16 bits, and Adam's other kinds are `FlatAdam`'s.

    Args:
        model: whose parameters.
        config: the settings.
        join: sums over the ranks that hold pieces (`parallel.piece_sum(model)`); LAMB alone asks.
    """
    groups = parameter_groups(model.parameters(), config.weight_decay)
    settings: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    if config.kind == "lamb":
        for group in groups:
            group["adapt"] = len(logical_shape(group["params"][0])) >= 2
        return Lamb(groups, join=join, compiled=config.compiled, **settings)
    whole = all(span_of(p) is None for group in groups for p in group["params"])
    if whole and config.kind == "adamw" and config.compiled is not True:
        return torch.optim.AdamW(groups, fused=True, **settings)
    return FlatAdam(groups, kind=config.kind, compiled=config.compiled, **settings)
