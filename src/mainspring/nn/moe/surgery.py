"""Experts taken away from trained models, and joined out of two: pruning and aggregation of experts.

Kim et al. 2021 (Z-code M3, arXiv 2109.10465), sections 3.3 (AoE) and 3.4 (expert pruning); the papers give
the procedure, the code is not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mainspring.errors import UsageError
from mainspring.nn.config import ExpertLayers, TransformerConfig
from mainspring.nn.moe.gate import Gate, Gated

GATE = ".gate.weight"
_STACKED = (".experts.up.weight", ".experts.down.weight", GATE)
_JOINED = (".experts.up.bias", ".experts.down.bias")

State = dict[str, Tensor]


@torch.no_grad()
def expert_loads(model: nn.Module, forwards: Iterable[object]) -> dict[str, Tensor]:
    """Tokens that chose each expert while the forwards ran, by name of the layer: int64 [E].

    Args:
        model: has layers of experts.
        forwards: runs the model each time something is taken from it, as
            `(model(batch) for batch in validation)`.
    """
    loads: dict[str, Tensor] = {}

    def count(name: str, size: int) -> object:
        def listen(module: nn.Module, arguments: object, gated: Gated) -> None:
            chosen = torch.bincount(gated.experts.reshape(-1), minlength=size + 1)[:size]
            loads[name] = loads[name] + chosen if name in loads else chosen

        return listen

    handles = [
        module.register_forward_hook(count(name.removesuffix(".gate"), module.count))  # type: ignore[arg-type]
        for name, module in model.named_modules()
        if isinstance(module, Gate)
    ]
    try:
        for _ in forwards:
            pass
    finally:
        for handle in handles:
            handle.remove()
    return loads


def prune_experts(
    state: Mapping[str, Tensor], config: TransformerConfig, loads: Mapping[str, Tensor], keep: int
) -> tuple[State, TransformerConfig]:
    """Keep the busiest experts of each layer, in their order, with their rows of the gate.

    Args:
        state: tensors by our names.
        config: of the model.
        loads: of `expert_loads`, by name of the layer.
        keep: experts that a layer keeps; layers with fewer keep all.

    Returns:
        State and configuration of the smaller model.

    Raises:
        UsageError: the model has no experts, `keep` is below its top_k, or a layer has no load.
    """
    experts = _experts(config)
    if keep < experts.top_k:
        raise UsageError(f"keep = {keep} is below top_k = {experts.top_k}; keep at least that many experts")
    chosen: dict[str, Tensor] = {}
    for layer in layers_of(state):
        if layer not in loads:
            raise UsageError(f"{layer}: no load was counted; run expert_loads on the model of this state")
        load = loads[layer]
        # Stable, so that of experts with equal loads the first stay.
        busiest = load.argsort(descending=True, stable=True)[: min(keep, len(load))]
        chosen[layer] = busiest.sort().values
    counts = iter([len(kept) for kept in chosen.values()])
    result: State = {}
    for name, tensor in state.items():
        owner = _layer(name)
        if owner is None:
            result[name] = tensor
            continue
        kept = chosen[owner].to(tensor.device)
        stacked = tensor if name.endswith(_STACKED) else tensor.view(len(loads[owner]), -1)
        result[name] = stacked[kept].reshape(-1, *tensor.shape[1:])
    return result, _with_counts(config, list(counts))


def aggregate_experts(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], config: TransformerConfig
) -> tuple[State, TransformerConfig]:
    """Two trained models of one shape as one with the experts of both, to be trained on.

    What is no expert becomes the mean of both; experts and rows of the gate stand side by side.

    Args:
        first, second: tensors by our names.
        config: of both.

    Returns:
        State and configuration of the model with twice the experts.

    Raises:
        UsageError: the model has no experts, or the states differ in names or shapes.
    """
    _experts(config)
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in (first, second)]
    if shapes[0] != shapes[1]:
        different = sorted(
            n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n)
        )
        raise UsageError(f"the two states differ in names or shapes: {', '.join(different[:8])}")
    result: State = {}
    for name, tensor in first.items():
        other = second[name]
        if _layer(name) is not None:
            result[name] = torch.cat([tensor, other])
        else:
            result[name] = ((tensor.float() + other.float()) / 2).to(tensor.dtype)
    counts = [2 * first[layer + GATE].shape[0] for layer in layers_of(first)]
    return result, _with_counts(config, counts)


def layers_of(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers of experts in a state, the encoder's first, as the configuration counts them."""
    found = [name.removesuffix(GATE) for name in state if name.endswith(GATE)]
    return sorted(found, key=lambda name: (not name.startswith("encoder."), _number(name)))


def _number(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def _layer(name: str) -> str | None:
    """The layer of experts that a tensor is cut by experts in, if it is."""
    ending = next((end for end in (*_STACKED, *_JOINED) if name.endswith(end)), None)
    return None if ending is None else name.removesuffix(ending)


def _experts(config: TransformerConfig) -> ExpertLayers:
    if config.experts is None:
        raise UsageError("this model has no layers of experts (config.experts is not set)")
    return config.experts


def _with_counts(config: TransformerConfig, counts: Sequence[int]) -> TransformerConfig:
    assert config.experts is not None
    same = len(set(counts)) == 1
    return config.replace(
        experts={**config.experts.model_dump(), "count": counts[0] if same else tuple(counts)}
    )
