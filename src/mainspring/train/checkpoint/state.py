"""Logical names of all tensors of a training run: `model.<parameter>`, `optimizer.<parameter>.<state>`.

The names say nothing of ranks or of positions in an optimizer's groups, so any plan loads any checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mainspring import parallel
from mainspring.errors import CheckpointError, few
from mainspring.nn.span import Span, cut_of, logical_shape, mark, mark_cut, span_of
from mainspring.optim.replicas import Settles
from mainspring.train.checkpoint.boxes import Box, Held, Leaf, held_piece
from mainspring.train.checkpoint.manifest import DTYPES, Entry, Manifest
from mainspring.train.checkpoint.tiers import tiers

MODEL = "model."
OPTIMIZER = "optimizer."


COUNTERS = frozenset(
    {"step", "mu_product", "mu", "eta"}
    | {"frozen", "variance_norm", "directions", "coefficient", "factor", "scaling"}
)
"""States of an optimizer that are one number for a parameter, whatever its shape."""


def run_state(model: nn.Module, optimizer: Optimizer | None, *, empty: bool = False) -> dict[str, Leaf]:
    """All that a checkpoint stores: `model_state`, and `optimizer_state` if there is an optimizer.

    What an offloading tier keeps is not read before it is written. Every rank calls it: an optimizer whose
    ranks owe one another something settles that first (`optim.replicas.Settles`).

    Args:
        model: spread or not.
        optimizer: its states are stored too.
        empty: as `optimizer_state` has it.
    """
    known: object = optimizer
    if isinstance(known, Settles) and not empty:
        known.settle()  # what only some ranks have is brought to all
    away = tiers(model, optimizer)
    if away:
        parallel.settle(model)  # an update that is under way ends, so that all states have their names
    result: dict[str, Leaf] = dict(model_state(model))
    if optimizer is not None:
        result |= optimizer_state(model, optimizer, empty=empty)
    for tier in away:
        for name, piece in zip(tier.shard.names, tier.shard.pieces, strict=True):
            span, cut = _span(piece), cut_of(piece)
            result[MODEL + name] = held_piece(span, cut, piece.dtype, partial(_same, piece), tier)
            for key, value in optimizer.state.get(piece, {}).items() if optimizer is not None else ():
                place = f"{OPTIMIZER}{name}.{key}"
                if place in result:
                    assert optimizer is not None
                    read = partial(_value, optimizer, piece, key)
                    if value.shape == piece.shape:
                        result[place] = held_piece(span, cut, value.dtype, read, tier)
                    else:
                        box = Box((0,) * value.ndim, tuple(value.shape), read)
                        result[place] = Held(value.shape, value.dtype, (box,), tier)
    return result if empty else _without_copies(model, result)


def _without_copies(model: nn.Module, found: dict[str, Leaf]) -> dict[str, Leaf]:
    """Without what the first rank of a tensor group stores alike: what is not cut. (Pieces of such a tensor
    may end elsewhere on each of these ranks, so that they would overlap without being the same.)"""
    if parallel.axes_of(model).index("tensor") == 0:
        return found
    cuts = {name: cut_of(parameter) for name, parameter in _parameters(model).items()}
    own = {name for name, cut in cuts.items() if cut is not None and "tensor" in cut.axes}
    return {name: leaf for name, leaf in found.items() if _owner(name) in own}


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers under their logical names; a shared tensor once, under its first
    name. What is only a part of a parameter is marked as that (`mainspring.nn.span`)."""
    return {MODEL + name: tensor for name, tensor in parallel.sharded_state(model).items()}


def optimizer_state(model: nn.Module, optimizer: Optimizer, *, empty: bool = False) -> dict[str, Tensor]:
    """Tensors of the optimizer's state under their logical names; those of a piece are pieces as well.

    Args:
        model: whose parameters the optimizer holds.
        optimizer: after its first step.
        empty: also of pieces that have no elements here. They are never stepped, so what they count may be
            old: they are to be filled, not to be stored.
    """
    return {
        f"{OPTIMIZER}{name}.{key}": _marked_as(parameter, value.detach())
        for name, parameter in _parameters(model).items()
        if empty or parameter.numel() or not logical_shape(parameter).numel()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def allocate_optimizer_state(model: nn.Module, optimizer: Optimizer, content: Manifest) -> None:
    """Give the optimizer the tensors that a checkpoint has values for, sharded as the parameters are."""
    parameters, away = _parameters(model), parallel.elsewhere(model)
    wanted: dict[str, dict[str, Entry]] = {}
    for name, entry in content.tensors.items():
        if name.startswith(OPTIMIZER):
            owner, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
            if owner in away:
                continue
            if owner not in parameters:
                raise CheckpointError(f"{name}: the checkpoint is of another model, which has this parameter")
            wanted.setdefault(owner, {})[key] = entry
    for tier in tiers(model, optimizer):
        with tier.opened(write=True):
            for name, piece in zip(tier.shard.names, tier.shard.pieces, strict=True):
                _allocate(piece, optimizer, wanted.pop(name, {}))
    for name, entries in wanted.items():
        _allocate(parameters[name], optimizer, entries)


def _allocate(parameter: nn.Parameter, optimizer: Optimizer, entries: Mapping[str, Entry]) -> None:
    for key, entry in entries.items():
        dtype, counter = DTYPES[entry.dtype], not entry.shape and key in COUNTERS
        if tuple(logical_shape(parameter)) == entry.shape and not counter:
            value = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        else:
            # torch keeps the step count of fused and capturable optimizers beside the parameter, else on the
            # CPU.
            device = parameter.device if _counts_beside(parameter, optimizer) else "cpu"
            value = torch.zeros(entry.shape, dtype=dtype, device=device)
        optimizer.state[parameter][key] = value


def _counts_beside(parameter: nn.Parameter, optimizer: Optimizer) -> bool:
    return any(
        (group.get("fused") or group.get("capturable")) and any(p is parameter for p in group["params"])
        for group in optimizer.param_groups
    )


def check_fit(state: Mapping[str, Leaf], content: Manifest, away: Collection[str] = frozenset()) -> None:
    """Compare names and shapes with those of a checkpoint.

    Args:
        state: of this rank.
        content: of the checkpoint.
        away: names of parameters that other ranks have.

    Raises:
        CheckpointError: lists what is missing, what is left over and what has another shape.
    """
    missing = sorted(set(state) - set(content.tensors))
    surplus = sorted(n for n in set(content.tensors) - set(state) if _owner(n) not in away)
    shapes = [
        f"{name}: checkpoint {list(content.tensors[name].shape)}, model {list(_shape(tensor))}"
        for name, tensor in sorted(state.items())
        if name in content.tensors and content.tensors[name].shape != tuple(_shape(tensor))
    ]
    faults = [
        f"{label}: {few(names)}"
        for label, names in (
            ("not in the checkpoint", missing),
            ("only in the checkpoint", surplus),
            ("of another shape", shapes),
        )
        if names
    ]
    if faults:
        raise CheckpointError("the checkpoint is of another model: " + "; ".join(faults))


def _owner(name: str) -> str:
    """The parameter that a tensor belongs to."""
    if name.startswith(OPTIMIZER):
        return name.removeprefix(OPTIMIZER).rpartition(".")[0]
    return name.removeprefix(MODEL)


def _shape(leaf: Leaf) -> torch.Size:
    return leaf.shape if isinstance(leaf, Held) else logical_shape(leaf)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What an optimizer holds, by name."""
    if found := parallel.shards(model):
        return {n: p for shard in found for n, p in zip(shard.names, shard.pieces, strict=True)}
    return dict(model.named_parameters())


def _span(piece: Tensor) -> Span:
    span = span_of(piece)
    assert span is not None
    return span


def _same(piece: Tensor) -> Tensor:
    return piece


def _value(optimizer: Optimizer, piece: nn.Parameter, key: str) -> Tensor:
    value: Tensor = optimizer.state[piece][key]
    return value


def _marked_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Mark a value that has an element for each of a parameter's as the part that the parameter is."""
    if value.shape == parameter.shape:
        if (span := span_of(parameter)) is not None:
            mark(value, span)
        mark_cut(value, cut_of(parameter))
    return value
