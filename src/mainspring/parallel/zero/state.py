"""A sharded model's tensors by name: this rank's pieces, or the whole ones; never one for the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mainspring import comm
from mainspring.errors import PlanError
from mainspring.nn.span import mark, mark_cut, span_of
from mainspring.parallel.strategy import KEY
from mainspring.parallel.whole import named_tensors
from mainspring.parallel.zero.unit import Row

if TYPE_CHECKING:
    from mainspring.parallel.zero.engine import Flat

_REMEDY = (
    "this model's parameters are sharded: a rank has pieces of them. Use parallel.full_state(model) for "
    "whole tensors (every rank calls it), parallel.sharded_state(model) for this rank's pieces, or "
    "train.checkpoint.save"
)


@torch.no_grad()
def sharded_state(engine: Flat) -> dict[str, Tensor]:
    """This rank's piece of every parameter, by its first name, and the buffers that are saved.

    Pieces are 1-D, perhaps of 0 elements, share memory with the model and carry a `span`.
    """
    found: dict[str, Tensor] = {}
    for row in engine.rows:
        for slot, span in zip(row.slots, row.shard.spans, strict=True):
            found[slot.name] = piece = slot.piece.detach()
            mark(mark_cut(piece, slot.cut), span)
    buffers = {id(buffer) for buffer in engine.model.buffers()}
    found.update((n, t.detach()) for n, t in named_tensors(engine.model) if id(t) in buffers)
    return found


@torch.no_grad()
def full_state(engine: Flat, join: Callable[[Tensor], Tensor], keep: bool) -> dict[str, Tensor]:
    """All tensors, whole, on the CPU, gathered row by row; {} where they are not kept.

    Args:
        engine: the model.
        join: makes a whole tensor of a box that is marked with its cut; every rank calls it.
        keep: whether this rank wants them.
    """
    found: dict[int, Tensor] = {}
    for row in engine.rows:
        whole = _gather(engine, row)
        for slot in row.slots:
            joined = join(mark_cut(row.view(whole, slot), slot.cut))
            if keep:
                found[id(slot.piece)] = joined.to("cpu", copy=True)
    if not keep:
        return {}
    engine.settle()  # so that the model shows its pieces
    return {
        name: found[id(t)] if id(t) in found else t.detach().to("cpu", copy=True)
        for name, t in named_tensors(engine.model)
    }


def guard(engine: Flat) -> None:
    """Make `state_dict` of the model refuse, `load_state_dict` take whole tensors, `deepcopy` give a plain
    model."""
    model = engine.model
    for module in model.modules():
        any_module: Any = module  # torch leaves the types of these hooks out
        engine.handles.append(any_module.register_state_dict_pre_hook(_refuse))
        engine.handles.append(any_module.register_load_state_dict_pre_hook(_cut))
    root: Any = model
    engine.handles.append(root.register_load_state_dict_post_hook(lambda module, keys: _loaded(engine)))
    # An instance's own `__deepcopy__`, which `copy.deepcopy` asks for: modules have none.
    model.__dict__["__deepcopy__"] = lambda memo: _plain_copy(engine, memo)


def _refuse(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    raise PlanError(_REMEDY)


def _cut(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any) -> None:
    if metadata.get("assign_to_params_buffers"):
        raise PlanError(
            "load_state_dict(assign=True) would put whole tensors in place of pieces: leave it out"
        )
    for leaf, parameter in module._parameters.items():
        value = state.get(prefix + leaf)
        span = None if parameter is None else span_of(parameter)
        if span is not None and isinstance(value, Tensor) and span_of(value) != span:
            if value.shape == span.shape:
                state[prefix + leaf] = value.reshape(-1)[span.start : span.stop]
            else:
                raise PlanError(
                    f"{prefix}{leaf} has the shape {list(value.shape)}; the model's is {list(span.shape)}"
                )


def _loaded(engine: Flat) -> None:
    engine.settle()
    for shard in engine.shards:
        engine.placement.adopt(shard)


@torch.no_grad()
def _plain_copy(engine: Flat, memo: dict[int, Any]) -> nn.Module:
    """The model as a module of whole parameters that knows nothing of ranks (every rank copies)."""
    model = engine.model
    engine.settle()
    for row in engine.rows:
        whole = _gather(engine, row)
        for slot in row.slots:
            full = nn.Parameter(row.view(whole, slot).clone(), requires_grad=slot.piece.requires_grad)
            mark_cut(full, slot.cut)
            memo[id(slot.piece)] = full
    other = type(model).__new__(type(model))
    memo[id(model)] = other
    kept = {key: value for key, value in model.__dict__.items() if key not in ("__deepcopy__", KEY)}
    other.__dict__.update(copy.deepcopy(kept, memo))
    ids = {handle.id for handle in engine.handles}
    for module in other.modules():
        for key, hooks in module.__dict__.items():
            if key.endswith("_hooks") or "_hooks_" in key:
                for number in ids & set(hooks):
                    del hooks[number]
    return other


def _gather(engine: Flat, row: Row) -> Tensor:
    """The whole row of masters [padded]."""
    shard = row.shard
    with engine.placement.opened(shard, write=False):
        own = shard.flat.to(row.device)
        whole = torch.empty(row.layout.padded, dtype=shard.dtype, device=row.device)
        if row.sharers.world == 1:
            return whole.copy_(own)
        name = f"state of {shard.name or 'the root'}"
        for work in comm.all_gather(whole, own, name=name, group=row.sharers.group):
            work.wait()
    payload = whole.numel() * whole.element_size()
    engine.counter.add("state", "all_gather", payload, row.sharers.world)
    return whole
