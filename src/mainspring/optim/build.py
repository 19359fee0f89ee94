"""Make a torch optimizer from its settings and a model's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from mainspring.errors import PlanError
from mainspring.nn.span import logical_shape, span_of
from mainspring.optim.adasum import AdasumOptimizer
from mainspring.optim.config import OptimConfig
from mainspring.optim.flat import FlatAdam
from mainspring.optim.lamb import Join, Lamb
from mainspring.optim.onebit import OneBitAdam, OneBitLamb, Settled, ZeroOneAdam
from mainspring.optim.onebit.lamb import Thresholds
from mainspring.optim.onebit.zero_one import Policy
from mainspring.optim.replicas import Replicas
from mainspring.optim.update import Kind, Rectification

ADAMS: dict[str, Kind] = {"adamw": "adamw", "adam": "adam", "radam": "radam", "adamax": "adamax"}
"""Kinds that `FlatAdam` knows."""


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


def build(
    model: nn.Module, config: OptimConfig, *, join: Join | None = None, replicas: Replicas | None = None
) -> torch.optim.Optimizer:
    """The optimizer of `config` over the trainable parameters of `model`: whole, DTensors, or pieces.

    Call it after `parallel.apply` and `parallel.materialize`: both may replace parameters. Clipping is the
    training loop's (`parallel.clip_grad_norm`), and so is setting `group["lr"]` from `schedules.lr`.

    AdamW over whole parameters is torch's, whose fused kernel is one pass over memory already; pieces of
    sharded parameters, with gradients in 16 bits, and Adam's other kinds are `FlatAdam`'s.

    Args:
        model: whose parameters.
        config: the settings.
        join: sums over the ranks that hold pieces (`parallel.piece_sum(model)`); LAMB alone asks.
        replicas: the data ranks, where the optimizer joins what they computed (`parallel.replicas(model)`).

    Raises:
        PlanError: the plan's communication and the optimizer do not go together.
    """
    check_communication(config, "exact" if replicas is None else replicas.communication)
    groups = parameter_groups(model.parameters(), config.weight_decay)
    if config.kind in ("lamb", "onebit_lamb"):
        for group in groups:
            group["adapt"] = len(logical_shape(group["params"][0])) >= 2
    if config.sends_signs:
        assert replicas is not None
        return SIGNS[config.kind](groups, config, replicas)
    inner = _exact(groups, config, join)
    return inner if replicas is None else AdasumOptimizer(inner, replicas)


def check_communication(config: OptimConfig, communication: str) -> None:
    """Refuse an optimizer under a plan that joins what ranks computed in another way than it needs.

    Raises:
        PlanError: with the remedy.
    """
    if config.sends_signs and communication != "compressed":
        raise PlanError(
            f'optim.kind = "{config.kind}" sends signs and plan.communication = "{communication}" has nobody '
            'to send them to: set plan.communication = "compressed" (in a loop of your own also give '
            "optim.build replicas=parallel.replicas(model))"
        )
    if communication == "compressed" and not config.sends_signs:
        raise PlanError(
            'plan.communication = "compressed" leaves joining to the optimizer and optim.kind = '
            f'"{config.kind}" does not join: set optim.kind to "onebit_adam", "onebit_lamb" or '
            '"zero_one_adam", or plan.communication = "exact"'
        )


def _exact(groups: list[dict[str, Any]], config: OptimConfig, join: Join | None) -> torch.optim.Optimizer:
    settings = _settings(config)
    if config.kind == "lamb":
        return Lamb(
            groups, join=join, bias_correction=config.bias_correction, compiled=config.compiled, **settings
        )
    whole = all(span_of(p) is None for group in groups for p in group["params"])
    if whole and config.kind == "adamw" and config.compiled is not True and config.bias_correction:
        return torch.optim.AdamW(groups, fused=True, **settings)
    return FlatAdam(
        groups,
        kind=ADAMS[config.kind],
        bias_correction=config.bias_correction,
        rectification=Rectification(config.rectify_above, config.unrectified),
        compiled=config.compiled,
        **settings,
    )


def _settings(config: OptimConfig) -> dict[str, Any]:
    return {"lr": config.lr, "betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}


def _signs(config: OptimConfig, replicas: Replicas) -> dict[str, Any]:
    return {
        **_settings(config),
        "replicas": replicas,
        "bias_correction": config.bias_correction,
        "scale": config.onebit.scale,
        "compiled": config.compiled,
    }


def _freeze(config: OptimConfig) -> int | Settled:
    freeze = config.onebit.freeze_step
    assert freeze is not None
    return Settled(config.schedule.warmup_steps) if freeze == "settled" else freeze


def _onebit_adam(groups: list[dict[str, Any]], config: OptimConfig, replicas: Replicas) -> OneBitAdam:
    return OneBitAdam(
        groups, freeze_step=_freeze(config), sends=config.onebit.sends, **_signs(config, replicas)
    )


def _onebit_lamb(groups: list[dict[str, Any]], config: OptimConfig, replicas: Replicas) -> OneBitLamb:
    one = config.onebit
    thresholds = Thresholds(
        smallest=one.ratio_min,
        largest=one.ratio_max,
        average=one.ratio_average,
        factor_min=one.factor_min,
        factor_max=one.factor_max,
        factor_change=one.factor_change,
    )
    return OneBitLamb(groups, freeze_step=_freeze(config), thresholds=thresholds, **_signs(config, replicas))


def _zero_one_adam(groups: list[dict[str, Any]], config: OptimConfig, replicas: Replicas) -> ZeroOneAdam:
    one = config.onebit
    assert isinstance(one.freeze_step, int)
    if replicas.own != slice(0, replicas.total):
        raise PlanError(
            'optim.kind = "zero_one_adam" lets ranks step apart, each with all weights, and plan.zero = 1 '
            'has each rank update a shard of one model: set plan.zero = 0, or optim.kind = "onebit_adam"'
        )
    policy = Policy(one.freeze_step, one.var_update_scaler, one.local_step_scaler, one.local_step_clipper)
    return ZeroOneAdam(groups, policy=policy, **_signs(config, replicas))


SIGNS: dict[str, Callable[[list[dict[str, Any]], OptimConfig, Replicas], torch.optim.Optimizer]] = {
    "onebit_adam": _onebit_adam,
    "onebit_lamb": _onebit_lamb,
    "zero_one_adam": _zero_one_adam,
}
"""Kinds that send signs, and what makes them."""
