"""What a module is made of, read off the meta device: its units, and every parameter in them.

Whatever an objective adds beside the network (a generator, a slow copy, a queue) is in it, because the whole
module is read, not its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from mainspring.nn import Transformer, TransformerConfig
from mainspring.nn.moe import ExpertMaps
from mainspring.nn.part import Part as Stretch
from mainspring.nn.part import RunsInParts
from mainspring.nn.peers import Along, Cuttable
from mainspring.objectives import Objective, assemble
from mainspring.parallel.blocks import shardable_blocks
from mainspring.parallel.pipeline.cut import parts as stretches
from mainspring.parallel.plan import Plan

Backend = Literal["flat", "fsdp2"]
Where = Literal["first", "middle", "last"]
"""A part of a model in a pipeline: the one with its first block, one with neither, the one with its last."""


@dataclass(frozen=True)
class Part:
    """One parameter."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    units: int = 0
    """Equal units over which tensor parallelism cuts it; 0: every tensor rank has it whole."""
    expert: bool = False
    """Whether it belongs to an expert, and is on the ranks of that expert alone."""
    used: frozenset[Where] = frozenset()
    """Outside the blocks: which parts of the model use it; in a pipeline the first of them keeps it."""

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Unit:
    """What ZeRO gathers as a whole."""

    name: str
    parts: tuple[Part, ...]

    @cached_property
    def numel(self) -> int:
        """Elements of all its parameters."""
        return sum(part.numel for part in self.parts)

    @cached_property
    def _sums(self) -> dict[tuple[bool, int, bool], int]:
        sums: dict[tuple[bool, int, bool], int] = {}
        for part in self.parts:
            key = part.trainable, part.units, part.expert
            sums[key] = sums.get(key, 0) + part.numel
        return sums

    def elements(
        self, *, tensor: int = 1, expert: int = 1, trainable: bool | None = None, experts: bool | None = None
    ) -> int:
        """Elements on the fullest rank of `tensor` and of `expert`; with `experts` those of experts alone, or
        all others."""
        return sum(
            n // max(units, 1) * (math.ceil(units / tensor) if units else 1) // (expert if of_expert else 1)
            for (learns, units, of_expert), n in self._sums.items()
            if trainable in (None, learns) and experts in (None, of_expert)
        )

    def share(
        self, ranks: int, backend: Backend, *, tensor: int = 1, expert: int = 1, trainable: bool | None = None
    ) -> int:
        """Elements of the fullest of `ranks` shards.

        Flat shards cut the unit's trainable and its frozen parameters in equal parts, wherever that falls,
        and those of experts over the ranks that have the same experts; FSDP2 cuts each parameter in whole
        rows.
        """
        if backend == "flat":
            kinds = (True, False) if trainable is None else (trainable,)
            return sum(
                math.ceil(
                    self.elements(tensor=tensor, expert=expert, trainable=kind, experts=experts) / group
                )
                for kind in kinds
                for experts, group in ((False, ranks), (True, ranks // expert))
            )
        total = 0
        for part in self.parts:
            if trainable in (None, part.trainable):
                first = part.shape[0] if part.shape else 1
                rest = part.numel // first if first else 0
                total += math.ceil(first / ranks) * rest
        return total


@dataclass(frozen=True)
class Stage:
    """What a rank of a pipeline has."""

    units: tuple[Unit, ...]
    """Its part of the root, then its blocks."""
    borrowed: Unit
    """What it computes with and another rank keeps: the table of a tied head."""
    blocks: int
    first: bool
    """Whether the model begins here."""
    last: bool
    """Whether the model ends here."""
    _sums: dict[tuple[object, ...], tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)
    """What was asked before: a search asks alike a thousand times."""

    def sizes(
        self, tensor: int, expert: int, *, trainable: bool | None = None, experts: bool | None = None
    ) -> tuple[int, ...]:
        """Elements of each unit (`Unit.elements`)."""
        key = tensor, expert, trainable, experts
        if key not in self._sums:
            self._sums[key] = tuple(
                unit.elements(tensor=tensor, expert=expert, trainable=trainable, experts=experts)
                for unit in self.units
            )
        return self._sums[key]

    def elements(
        self, tensor: int, expert: int, *, trainable: bool | None = None, experts: bool | None = None
    ) -> int:
        """Elements of all units."""
        return sum(self.sizes(tensor, expert, trainable=trainable, experts=experts))

    def share(
        self, ranks: int, backend: Backend, tensor: int, expert: int, *, trainable: bool | None = None
    ) -> int:
        """Elements of the fullest of `ranks` shards of its units (`Unit.share`)."""
        key = ranks, backend, tensor, expert, trainable
        if key not in self._sums:
            shares = (
                unit.share(ranks, backend, tensor=tensor, expert=expert, trainable=trainable)
                for unit in self.units
            )
            self._sums[key] = (sum(shares),)
        return self._sums[key][0]


@dataclass(frozen=True)
class Inventory:
    """A module: its root and its blocks."""

    root: Unit
    """Parameters outside the blocks."""
    blocks: tuple[Unit, ...]
    buffers: int
    """Bytes of buffers, which every rank keeps whole."""
    costs: tuple[float, ...] = ()
    """How long each block computes, by which stages are balanced; empty where the model cannot be cut into
    stages."""
    even: int = 0
    """What tensor ranks have to divide: heads, widths and the like; 0 where nothing can be cut."""
    _stages: dict[tuple[int, int], tuple[Stage, ...]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The root, then the blocks."""
        return (self.root, *self.blocks)

    @property
    def total(self) -> int:
        """Parameters; tied ones once."""
        return sum(unit.numel for unit in self.units)

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(unit.elements(trainable=True) for unit in self.units)

    @property
    def largest_block(self) -> int:
        """Parameters of the largest block (0 without blocks)."""
        return max((block.numel for block in self.blocks), default=0)

    def stages(self, pipeline: int, chunks: int = 1) -> tuple[Stage, ...]:
        """What each rank of a pipeline has, as `parallel.pipeline` shares it out: of pipeline x chunks stages
        number s is on rank s mod pipeline.

        Raises:
            PlanError: there are fewer blocks than stages.
        """
        if (pipeline, chunks) not in self._stages:
            self._stages[pipeline, chunks] = self._cut(pipeline, chunks)
        return self._stages[pipeline, chunks]

    def _cut(self, pipeline: int, chunks: int) -> tuple[Stage, ...]:
        if pipeline == 1:
            return (Stage(self.units, Unit("", ()), len(self.blocks), True, True),)
        plan = Plan(pipeline=pipeline, pipeline_chunks=chunks, pipeline_schedule="zero_bubble")
        cut = stretches(self.costs, plan)
        result = []
        for rank in range(pipeline):
            mine = cut[rank::pipeline]
            here: set[Where] = {_where(one) for one in mine}
            kept: list[Part] = []
            lent: list[Part] = []
            for part in self.root.parts:
                if here & part.used:
                    (kept if rank == _keeper(part, pipeline) else lent).append(part)
                elif not part.used and rank == 0:
                    kept.append(part)
            blocks = [block for one in mine for block in self.blocks[one.start : one.stop]]
            result.append(
                Stage(
                    (Unit("", tuple(kept)), *blocks),
                    Unit("", tuple(lent)),
                    len(blocks),
                    "first" in here,
                    "last" in here,
                )
            )
        return tuple(result)

    def share(self, ranks: int, backend: Backend = "flat", *, trainable: bool | None = None) -> int:
        """Elements of the fullest shard."""
        return sum(unit.share(ranks, backend, trainable=trainable) for unit in self.units)


def take_inventory(module: nn.Module) -> Inventory:
    """Read a module, on whatever device; nothing is computed."""
    blocks = [block for block in shardable_blocks(module) if block is not module]
    names = {id(block): name for name, block in module.named_modules()}
    owner = {id(p): index for index, block in enumerate(blocks) for p in block.parameters()}
    cuts = _cuts(module)
    experts = {id(p) for m in module.modules() if isinstance(m, ExpertMaps) for p in m.parameters()}
    used = _users(module, len(blocks))
    parts: list[list[Part]] = [[] for _ in range(len(blocks) + 1)]
    for name, parameter in module.named_parameters():
        key = id(parameter)
        units = cuts[key].units if key in cuts else 0
        learns, shape = parameter.requires_grad, tuple(parameter.shape)
        part = Part(name, shape, learns, units, key in experts, frozenset(used.get(key, ())))
        parts[owner.get(key, -1) + 1].append(part)
    staged = isinstance(module, RunsInParts) and len(module.blocks()) == len(blocks)
    return Inventory(
        Unit("", tuple(parts[0])),
        tuple(Unit(names[id(block)], tuple(of)) for block, of in zip(blocks, parts[1:], strict=True)),
        sum(b.numel() * b.element_size() for b in module.buffers()),
        tuple(module.costs()) if staged and isinstance(module, RunsInParts) else (),
        math.gcd(*(along.units for along in cuts.values() if along.even)),
    )


def inventory_of(config: TransformerConfig, objective: Objective | None = None) -> Inventory:
    """The inventory of what is trained: the network, with what the objective owns beside it."""
    with torch.device("meta"):
        network = Transformer(config)
        return take_inventory(network if objective is None else assemble(objective, network))


def _cuts(module: nn.Module) -> dict[int, Along]:
    """How each parameter is cut over tensor ranks, by its identity."""
    found: dict[int, Along] = {}
    for owner in module.modules():
        if isinstance(owner, Cuttable):
            own = dict(owner.named_parameters())
            found |= {id(own[path]): along for path, along in owner.cuts.items() if path in own}
    return found


def _users(module: nn.Module, depth: int) -> dict[int, set[Where]]:
    """Which parts of a model use what is outside its blocks, by the parameters' identity."""
    users: dict[int, set[Where]] = {}
    if not isinstance(module, RunsInParts) or depth < 2:
        return users
    thirds: Sequence[Stretch] = (
        Stretch(0, 1, depth),
        Stretch(1, depth - 1, depth),
        Stretch(depth - 1, depth, depth),
    )
    for stretch in (one for one in thirds if one.start < one.stop):
        for owner in module.outside(stretch):
            for parameter in owner.parameters():
                users.setdefault(id(parameter), set()).add(_where(stretch))
    return users


def _where(stretch: Stretch) -> Where:
    return "first" if stretch.first else "last" if stretch.last else "middle"


def _keeper(part: Part, pipeline: int) -> int:
    """The rank of a pipeline that keeps what is outside the blocks: the first that uses it."""
    return 0 if "first" in part.used else 1 if "middle" in part.used and pipeline > 2 else pipeline - 1
