"""Leave on a rank what its stages compute with; the rest of the model goes.

A parameter that stages of several ranks use (an embedding table that also predicts, a table of distances,
tied layers) is kept by the first of them. The others borrow it: a tensor in its place, filled anew each step,
whose gradient goes back (`loans`). So each parameter is optimised, counted in norms and saved by one rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mainspring.errors import PlanError
from mainspring.nn.part import Absent, Part, RunsInParts
from mainspring.parallel.broadcast import broadcast_tensors
from mainspring.parallel.mesh import Axes
from mainspring.parallel.pipeline.cut import parts
from mainspring.parallel.pipeline.sequential import run_in_parts
from mainspring.parallel.plan import Plan
from mainspring.parallel.strategy import on_meta

Place = tuple[nn.Module, str]
"""A module and the name of a tensor in it."""


@dataclass
class Kept:
    """What a rank of a pipeline has of a model."""

    parts: list[Part]
    """Of all stages, in their order."""
    mine: list[int]
    """Numbers of this rank's stages."""
    elsewhere: frozenset[str] = frozenset()
    """Names of parameters that other ranks keep."""
    lent: dict[int, list[Place]] = field(default_factory=lambda: defaultdict(list))
    """What this rank lends, by the borrower's place in the pipeline."""
    borrowed: dict[int, list[Place]] = field(default_factory=lambda: defaultdict(list))
    """What it borrows, by the lender's place; both in the order of the model."""
    lending_stage: dict[int, int] = field(default_factory=dict)
    """This rank's first stage that uses what it lends, by borrower."""
    borrowing_stage: dict[int, int] = field(default_factory=dict)
    """This rank's first stage that uses what it borrows, by lender."""


def keep_stages(model: nn.Module, axes: Axes, plan: Plan) -> Kept:
    """Drop what this rank's stages do not use, in place. Names of what stays are as they were.

    Args:
        model: with storage (then the values of the pipeline's first rank are everyone's) or on meta.
        axes: where this rank stands.
        plan: with its stages.

    Raises:
        PlanError: the model cannot be run in parts, or not in so many.
    """
    staged = _staged(model)
    everything = parts(staged.costs(), plan)
    ranks, here = plan.pipeline, axes.index("pipeline")
    kept = Kept(everything, list(range(here, len(everything), ranks)))
    if not on_meta(model.parameters()):
        tensors = [*model.parameters(), *model.buffers()]
        broadcast_tensors(tensors, name="start", group=axes.group("pipeline"), counter=None)
    blocks = staged.blocks()
    users = _users(model, staged, blocks, everything)
    if bare := set(range(ranks)) - {stages[0] % ranks for stages in users.values()}:
        raise PlanError(
            f"ranks {sorted(bare)} of the pipeline would have no parameter of their own: what their stages "
            f"use is shared with earlier ones. Cut elsewhere: pipeline_blocks is "
            f"{[part.stop - part.start for part in everything]}"
        )
    places = _places(model)
    kept.elsewhere = frozenset(
        name for name, p in model.named_parameters(remove_duplicate=False) if users[id(p)][0] % ranks != here
    )
    # Each borrower asks the lender for the stages at which both first meet it: these may differ from one
    # parameter to the next, and one message goes for all, so the earliest counts.
    for key, found in places.items():
        stages = users[key]
        lender = stages[0] % ranks
        borrowers = {stage % ranks for stage in stages} - {lender}
        if here == lender:
            for borrower in borrowers:
                kept.lent[borrower].append(found[0])
                _least(kept.lending_stage, borrower, stages[0])
        elif here in borrowers:
            kept.borrowed[lender].extend(found)
            _least(kept.borrowing_stage, lender, next(s for s in stages if s % ranks == here))
        _keep_or_drop(found, here == lender, here in borrowers)
    _put_absent(model, {id(b) for i, b in enumerate(blocks) if not _holds(kept, i)})
    return kept


def _staged(model: nn.Module) -> RunsInParts:
    if type(model) is nn.Sequential:
        return run_in_parts(model)
    if isinstance(model, RunsInParts):
        return model
    raise PlanError(
        f"a {type(model).__name__} cannot be cut into stages: only its own forward knows what goes from one "
        "block to the next. Pipelines take mainspring's models, nn.Sequential, and any module that has "
        "blocks(), outside(part), costs() and a forward with part and carried (mainspring.nn.part); use "
        "data, zero or tensor for this one"
    )


def _users(
    model: nn.Module, staged: RunsInParts, blocks: Sequence[nn.Module], everything: Sequence[Part]
) -> dict[int, list[int]]:
    """Stages that use each parameter, in their order; what none uses is stage 0's."""
    users: dict[int, list[int]] = {id(p): [] for p in model.parameters()}
    for stage, part in enumerate(everything):
        used = [*blocks[part.start : part.stop], *staged.outside(part)]
        for key in {id(p) for module in used for p in module.parameters()}:
            users[key].append(stage)
    return {key: stages or [0] for key, stages in users.items()}


def _places(model: nn.Module) -> dict[int, list[Place]]:
    """Where the model has each parameter, in its order."""
    places: dict[int, list[Place]] = defaultdict(list)
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                places[id(parameter)].append((module, leaf))
    return places


def _keep_or_drop(found: list[Place], keeps: bool, borrows: bool) -> None:
    if keeps:
        return
    stand_in: Tensor | None = None
    for module, leaf in found:
        parameter = module._parameters[leaf]
        if borrows and parameter is not None:
            # Found before nn.Module looks among its parameters, and known to nobody else.
            del module._parameters[leaf]
            stand_in = _borrowed(parameter) if stand_in is None else stand_in
            module.__dict__[leaf] = stand_in
        else:
            module._parameters[leaf] = None


def _borrowed(parameter: nn.Parameter) -> Tensor:
    """What stands where a borrowed parameter was: its shape and whether it is trained, without storage."""
    return torch.empty_like(parameter, device="meta", requires_grad=parameter.requires_grad)


def _holds(kept: Kept, block: int) -> bool:
    return any(kept.parts[s].start <= block < kept.parts[s].stop for s in kept.mine)


def _put_absent(model: nn.Module, blocks: set[int]) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in blocks:
                parent._modules[name] = Absent()


def _least(stages: dict[int, int], peer: int, stage: int) -> None:
    stages[peer] = min(stage, stages.get(peer, stage))
