"""Units: the modules that are gathered as a whole, with their parameters joined in flat rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mainspring.nn.span import Cut, cut_of, mark, mark_cut
from mainspring.parallel.blocks import shardable_blocks
from mainspring.parallel.precision import COMPUTE, Precision
from mainspring.parallel.zero.layout import Layout
from mainspring.parallel.zero.placement import Shard
from mainspring.parallel.zero.region import Region

Place = tuple[nn.Module, str]
"""A module and the name of a parameter in it."""


@dataclass(frozen=True)
class Sharers:
    """The ranks between which rows are cut."""

    group: dist.ProcessGroup | None = None
    """None where there is one."""
    gathers: dist.ProcessGroup | None = None
    """The same ranks: reductions wait for backward, gathers for the schedule, so each has its own order."""
    rank: int = 0
    """Which of them this one is."""
    world: int = 1
    """How many there are."""
    factor: float = 1.0
    """What their reduced gradients are multiplied by."""

    @classmethod
    def of(cls, group: dist.ProcessGroup | None, factor: float = 1.0) -> Sharers:
        """The ranks of a group; every rank of it calls this."""
        if group is None:
            return cls(factor=factor)
        return cls(group, _twin(group), dist.get_rank(group), dist.get_world_size(group), factor)


@dataclass(eq=False)
class Slot:
    """One parameter of a row."""

    name: str
    places: list[Place]
    """Where the model has it: more than one if it is tied."""
    index: int
    """Its number in the row."""
    piece: nn.Parameter
    cut: Cut | None = None
    """Which box of a parameter it is, where other ranks have the rest of it."""
    full: nn.Parameter | None = None
    """The whole parameter, a view of the gathered row; None before there is storage."""
    arrived: bool = False
    """Whether this backward brought a gradient here."""
    summed: bool = False
    """Whether an earlier backward of this step did, and it was not reduced."""
    used: bool = True
    """Whether some rank had a gradient, as of the last reduction."""


@dataclass(eq=False)
class Row:
    """The parameters of a unit that share dtype, device and fate, joined."""

    shard: Shard
    layout: Layout
    slots: list[Slot]
    device: torch.device
    sharers: Sharers
    region: Region | None = None
    """The gathered row [padded], in the dtype of computation."""
    pending: int = 0
    """Gradients that this backward has yet to bring."""
    nested: bool = False
    """Whether gradients came from a backward inside the backward: more may come."""
    sum: Tensor | None = None
    """Gradients of this backward, or since the last reduction, [padded]; kept while that is under way."""

    def view(self, flat: Tensor, slot: Slot) -> Tensor:
        """The elements of `slot` in a row [padded]."""
        start = self.layout.offsets[slot.index]
        shape = self.layout.shapes[slot.index]
        return flat[start : start + shape.numel()].view(shape)

    def own(self, flat: Tensor) -> Tensor:
        """The part [part] of this rank in a row [padded]."""
        return flat[self.sharers.rank * self.layout.part :][: self.layout.part]

    def open(self) -> Region:
        """The gathered row's memory, made when it is first asked for."""
        if self.region is None:
            shard = self.shard
            self.region = Region(self.layout.padded, shard.compute_dtype, self.device)
            for slot in self.slots:
                slot.full = nn.Parameter(self.view(self.region.tensor, slot), requires_grad=False)
            self.region.free()
        return self.region


@dataclass(eq=False)
class Unit:
    """A module whose own parameters are gathered together."""

    name: str
    module: nn.Module
    index: int
    """0 is the root; blocks follow in their order."""
    rows: list[Row] = field(default_factory=list)
    shown: bool = False
    """Whether the model has the whole parameters in place of the pieces."""
    ready: bool = False
    """Whether the gathered rows hold the present values."""

    def show(self) -> None:
        """Put the whole parameters in the model."""
        for row in self.rows:
            for slot in row.slots:
                full, piece = slot.full, slot.piece
                assert full is not None
                if full.requires_grad is not piece.requires_grad:
                    full.requires_grad_(piece.requires_grad)
                for module, leaf in slot.places:
                    put(module, leaf, full)
        self.shown = True

    def hide(self) -> None:
        """Put the pieces back."""
        for row in self.rows:
            for slot in row.slots:
                for module, leaf in slot.places:
                    put(module, leaf, slot.piece)
        self.shown = False


def put(module: nn.Module, leaf: str, parameter: nn.Parameter) -> None:
    """Set a parameter; the long way where the module keeps more than its dict (recurrent layers do)."""
    if isinstance(module, nn.RNNBase):
        setattr(module, leaf, parameter)
    else:
        module._parameters[leaf] = parameter


def find_units(model: nn.Module, sharers_of: Callable[[Tensor], Sharers], precision: Precision) -> list[Unit]:
    """The root and its blocks, with rows laid out and pieces on meta; the model is not changed."""
    names = {id(module): name for name, module in model.named_modules()}
    modules = [model, *(b for b in shardable_blocks(model) if b is not model)]
    owner: dict[int, int] = {}
    for index in range(len(modules) - 1, -1, -1):
        for parameter in modules[index].parameters():
            owner.setdefault(id(parameter), index)
    places: dict[int, list[Place]] = defaultdict(list)
    first: dict[int, str] = {}
    parameters: dict[int, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                places[id(parameter)].append((module, leaf))
                first.setdefault(id(parameter), f"{prefix}.{leaf}" if prefix else leaf)
                parameters[id(parameter)] = parameter
    units = [Unit(names[id(module)], module, index) for index, module in enumerate(modules)]
    Kind = tuple[torch.dtype, torch.device, bool, Sharers]
    groups: dict[int, dict[Kind, list[int]]] = defaultdict(dict)
    for key, parameter in parameters.items():
        kind = (parameter.dtype, parameter.device, parameter.requires_grad, sharers_of(parameter))
        groups[owner[key]].setdefault(kind, []).append(key)
    for index, kinds in sorted(groups.items()):
        for number, ((dtype, device, trainable, sharers), keys) in enumerate(kinds.items()):
            unit, rank = units[index], sharers.rank
            layout = Layout.of([parameters[key].shape for key in keys], sharers.world)
            pieces = [_piece(layout, i, rank, trainable) for i in range(len(keys))]
            lowered = dtype.is_floating_point and precision != "fp32"
            shard = Shard(
                name=unit.name + (f"+{number}" if number else ""),
                unit=unit.name,
                names=[first[key] for key in keys],
                pieces=pieces,
                places=[layout.local(i, rank) for i in range(len(keys))],
                start=rank * layout.part,
                numel=layout.part,
                trainable=trainable,
                dtype=torch.float32 if lowered else dtype,
                compute_dtype=COMPUTE[precision] if lowered else dtype,
                device=device,
            )
            slots = [
                Slot(first[key], places[key], i, pieces[i], cut_of(parameters[key]))
                for i, key in enumerate(keys)
            ]
            unit.rows.append(Row(shard, layout, slots, device, sharers))
    return units


def give_pieces(row: Row, flat: Tensor) -> None:
    """Make the pieces of a row views of `flat` [part] and put them in the model."""
    shard = row.shard
    shard.flat = flat
    for number, slot in enumerate(row.slots):
        piece = nn.Parameter(flat[shard.places[number]], requires_grad=slot.piece.requires_grad)
        mark(mark_cut(piece, slot.cut), row.layout.span(number, row.sharers.rank))
        piece.grad_dtype = None  # 16-bit gradients of fp32 masters
        shard.pieces[number] = slot.piece = piece
        for module, leaf in slot.places:
            put(module, leaf, piece)


def trainable_rows(units: Iterable[Unit]) -> list[tuple[Unit, Row]]:
    """Rows that bring gradients, in the order in which they are reduced: the last block's first, the root's
    last."""
    root, *blocks = units
    return [
        (unit, row)
        for unit in (*reversed(blocks), root)
        for row in unit.rows
        if any(slot.piece.requires_grad for slot in row.slots)
    ]


def _twin(group: dist.ProcessGroup) -> dist.ProcessGroup:
    """A second group of the same ranks: its collectives have an order of their own."""
    if dist.get_world_size(group) == 1:
        return group
    ranks = dist.get_process_group_ranks(group)
    local = len(ranks) < dist.get_world_size()
    twin: dist.ProcessGroup = dist.new_group(ranks, use_local_synchronization=local)
    return twin


def _piece(layout: Layout, index: int, rank: int, trainable: bool) -> nn.Parameter:
    size = layout.span(index, rank).numel
    return nn.Parameter(torch.empty(size, device="meta"), requires_grad=trainable)
