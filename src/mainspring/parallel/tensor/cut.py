"""Tensor parallelism of any module that declares what of it can be cut, or of which rules say so.

Every rank of the tensor axis keeps a part of the cut parameters, marked with the box that it is
(`mainspring.nn.span.Cut`), and all of the others. All ranks of a group take the same rows and have the same
loss; gradients of what is whole are the same on all of them, and those of parts are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mainspring import comm
from mainspring.errors import PlanError
from mainspring.nn.peers import Along, Cuttable, OnStream
from mainspring.nn.span import Cut, cut_of, mark_cut
from mainspring.parallel.broadcast import broadcast_tensors
from mainspring.parallel.mesh import Axes
from mainspring.parallel.plan import Plan
from mainspring.parallel.strategy import on_meta
from mainspring.parallel.tensor.operators import Line
from mainspring.parallel.tensor.ranks import Ranks
from mainspring.parallel.tensor.rows import Rows, bounds
from mainspring.parallel.tensor.rules import Rule, connect, parts_of, ruled
from mainspring.parallel.tensor.stream import put_on_stream

NAME = "tensor"
"""What the traffic of the layers is counted as."""
VOCABULARY = "vocabulary"
"""What the traffic of tables of tokens, their logits and losses is counted as."""


def cut_tensors(
    model: nn.Module, axes: Axes, plan: Plan, counter: comm.Counter, rules: Mapping[str, Rule] | None = None
) -> None:
    """Cut a model's parameters over the tensor axis, in place. Every rank calls it.

    Args:
        model: with storage (the first rank's values are taken) or on meta.
        axes: the mesh.
        plan: its `tensor` and `tensor_sequence` count.
        counter: told the traffic of forward and backward.
        rules: for modules that do not say it themselves (`mainspring.parallel.tensor.rules`).

    Raises:
        PlanError: nothing in the model can be cut, or its units cannot be shared out; says what can.
    """
    group = axes.group("tensor")
    assert group is not None
    line = Line(group, axes.index("tensor"), axes.size("tensor"), counter, NAME)
    found = [(name, m, path, along) for name, m in model.named_modules() for path, along in _present(m)]
    named = ruled(model, rules or {})
    found += [(name, m, path, along) for name, m, rule in named for path, along in parts_of(m, rule)]
    if not found:
        raise PlanError(
            f"plan.tensor = {plan.tensor}: no module of {type(model).__name__} says what of it can be cut; "
            "give rules by module path, or set plan.tensor = 1"
        )
    if named and plan.tensor_sequence:
        raise PlanError(
            "tensor_sequence cuts tokens between modules that take part in it, and modules that are cut by "
            "rules know nothing of it; set tensor_sequence = false"
        )
    _check(found, plan.tensor)
    if not on_meta(model.parameters()):
        tensors = [*model.parameters(), *model.buffers()]
        broadcast_tensors(tensors, name="start", group=group, counter=counter)
    share_chance(line)
    ranks = Ranks(line, plan.tensor_sequence)
    for _, module, path, along in found:
        cut_parameter(module.get_parameter(path), along, line)
    guard(model)
    words = replace(line, name=VOCABULARY)
    for _, module, rule in named:
        connect(module, rule, ranks, lambda rows: Rows(words, rows, rows))
    every: list[Any] = list(model.modules())
    for module in every:
        if hasattr(module, "peers"):
            module.peers = ranks
        if hasattr(module, "vocabulary"):
            module.vocabulary = Rows(words, module.rows, getattr(module, "vocab_size", 0))
        if plan.tensor_sequence and isinstance(module, OnStream):
            for part in module.on_stream():
                put_on_stream(part, ranks)


@torch.no_grad()
def cut_parameter(parameter: Tensor, along: Along, line: Line) -> None:
    """Leave in a parameter this rank's part of it; one that has been cut already is left alone."""
    before = cut_of(parameter)
    if before is not None and "tensor" in before.axes:
        return
    size = parameter.shape[along.dim] // along.units
    start, stop = (unit * size for unit in bounds(along.units, line.index, line.size))
    cut = Cut.whole(parameter.shape) if before is None else before
    part = parameter.narrow(along.dim, start, stop - start)
    parameter.data = part.clone(memory_format=torch.contiguous_format)
    mark_cut(parameter, cut.narrow(along.dim, start, stop - start, "tensor"))


def guard(model: nn.Module) -> None:
    """Make `state_dict` of a cut model refuse, for it would be partial, and `load_state_dict` take whole
    tensors."""
    for module in model.modules():
        if any(cut_of(parameter) is not None for parameter in module.parameters(recurse=False)):
            any_module: Any = module  # torch leaves the types of these hooks out
            any_module.register_state_dict_pre_hook(_refuse)
            any_module.register_load_state_dict_pre_hook(_take_part)


def _refuse(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    raise PlanError(
        "this model's parameters are cut over ranks: a rank has a part of each. Use "
        "parallel.full_state(model) for whole tensors (every rank calls it), parallel.sharded_state(model) "
        "for this rank's parts, or train.checkpoint.save"
    )


def _take_part(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
) -> None:
    for leaf, parameter in module._parameters.items():
        value, cut = state.get(prefix + leaf), None if parameter is None else cut_of(parameter)
        if cut is not None and isinstance(value, Tensor) and value.shape == cut.shape:
            state[prefix + leaf] = cut.of(value)


def share_chance(line: Line) -> None:
    """Let torch's generators be on all ranks of a group where they are on the first: what they all compute
    takes the same chance."""
    on_gpu = dist.get_backend(line.group) == "nccl"
    kinds: list[Any] = [(torch.get_rng_state, torch.set_rng_state)]
    kinds += [(torch.cuda.get_rng_state, torch.cuda.set_rng_state)] if on_gpu else []
    for read, write in kinds:
        state = read().to("cuda" if on_gpu else "cpu")
        dist.broadcast(state, group=line.group, group_src=0)
        write(state.cpu())


def _present(module: nn.Module) -> Iterator[tuple[str, Along]]:
    """Parameters of a module that can be cut."""
    if isinstance(module, Cuttable):
        own = dict(module.named_parameters())
        yield from ((path, along) for path, along in module.cuts.items() if path in own)


def _check(found: list[tuple[str, Any, str, Along]], size: int) -> None:
    """Refuse units that cannot be shared out."""
    units = math.gcd(*(along.units for *_, along in found if along.even))
    most = min(along.units for *_, along in found)
    legal = [n for n in range(1, most + 1) if units % n == 0]
    if size in legal:
        return
    name, _, path, along = next(
        item for item in found if item[3].units < size or (item[3].even and item[3].units % size)
    )
    near = sorted(sorted(legal, key=lambda n: abs(n - size))[:2])
    raise PlanError(
        f"plan.tensor = {size}: {name}.{path} has {along.units} {along.what}, which {size} ranks cannot "
        f"share equally; nearest legal plan.tensor: {' or '.join(str(n) for n in near)}"
    )
