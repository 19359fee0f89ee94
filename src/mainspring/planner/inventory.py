"""What a module is made of, read off the meta device: its units, and every parameter in them.

Whatever an objective adds beside the network (a generator, a slow copy, a queue) is in it, because the whole
module is read, not its configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from mainspring.nn import Transformer, TransformerConfig
from mainspring.objectives import Objective, assemble
from mainspring.parallel.blocks import shardable_blocks

Backend = Literal["flat", "fsdp2"]

_SPLIT = ("qkv", "qv_bias", "q", "kv", "up", "token", "table")
"""Modules whose every parameter tensor parallelism cuts (columns of products, rows of tables)."""
_SPLIT_WEIGHTS = ("out", "down")
"""Modules of which it cuts the weight and repeats the bias (rows of products)."""


@dataclass(frozen=True)
class Part:
    """One parameter."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    split: bool
    """Whether tensor parallelism cuts it; the others are on every tensor rank."""
    expert: bool = False
    """Whether it belongs to an expert, and is on the ranks of that expert alone."""

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
    def _sums(self) -> dict[tuple[bool, bool, bool], int]:
        sums: dict[tuple[bool, bool, bool], int] = {}
        for part in self.parts:
            key = part.trainable, part.split, part.expert
            sums[key] = sums.get(key, 0) + part.numel
        return sums

    def elements(self, *, tensor: int = 1, expert: int = 1, trainable: bool | None = None) -> int:
        """Elements on a rank that is one of `tensor` and of `expert`."""
        return sum(
            math.ceil(n / ((tensor if split else 1) * (expert if of_expert else 1)))
            for (learns, split, of_expert), n in self._sums.items()
            if trainable in (None, learns)
        )

    def share(self, ranks: int, backend: Backend, *, tensor: int = 1, trainable: bool | None = None) -> int:
        """Elements of the fullest of `ranks` shards.

        Flat shards cut the unit's trainable and its frozen parameters in equal parts, wherever that falls;
        FSDP2 cuts each parameter in whole rows.
        """
        if backend == "flat":
            kinds = (True, False) if trainable is None else (trainable,)
            return sum(math.ceil(self.elements(tensor=tensor, trainable=kind) / ranks) for kind in kinds)
        total = 0
        for part in self.parts:
            if trainable in (None, part.trainable):
                first = part.shape[0] if part.shape else 1
                rest = part.numel // first if first else 0
                total += math.ceil(math.ceil(first / ranks) * rest / (tensor if part.split else 1))
        return total


@dataclass(frozen=True)
class Inventory:
    """A module: its root and its blocks."""

    root: Unit
    """Parameters outside the blocks."""
    blocks: tuple[Unit, ...]
    buffers: int
    """Bytes of buffers, which every rank keeps whole."""

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

    def stage(self, pipeline: int) -> tuple[Unit, ...]:
        """Units of the fullest of `pipeline` stages: the root, and the first ceil(blocks / stages) blocks.

        The root (embeddings, last norm, head) is counted whole on it: a tied table is wanted by the first
        stage and by the last.
        """
        return (self.root, *self.blocks[: math.ceil(len(self.blocks) / pipeline)])

    def share(self, ranks: int, backend: Backend = "flat", *, trainable: bool | None = None) -> int:
        """Elements of the fullest shard."""
        return sum(unit.share(ranks, backend, trainable=trainable) for unit in self.units)


def take_inventory(module: nn.Module) -> Inventory:
    """Read a module, on whatever device; nothing is computed."""
    blocks = [block for block in shardable_blocks(module) if block is not module]
    names = {id(block): name for name, block in module.named_modules()}
    owner = {id(p): index for index, block in enumerate(blocks) for p in block.parameters()}
    parts: list[list[Part]] = [[] for _ in range(len(blocks) + 1)]
    for name, parameter in module.named_parameters():
        part = Part(name, tuple(parameter.shape), parameter.requires_grad, *_fate(name))
        parts[owner.get(id(parameter), -1) + 1].append(part)
    return Inventory(
        Unit("", tuple(parts[0])),
        tuple(Unit(names[id(block)], tuple(of)) for block, of in zip(blocks, parts[1:], strict=True)),
        sum(b.numel() * b.element_size() for b in module.buffers()),
    )


def inventory_of(config: TransformerConfig, objective: Objective | None = None) -> Inventory:
    """The inventory of what is trained: the network, with what the objective owns beside it."""
    with torch.device("meta"):
        network = Transformer(config)
        return take_inventory(network if objective is None else assemble(objective, network))


def _fate(name: str) -> tuple[bool, bool]:
    """Whether tensor parallelism cuts a parameter, and whether it is an expert's."""
    *path, leaf = name.split(".")
    owner = path[-1] if path else ""
    split = (
        owner in _SPLIT
        or leaf in _SPLIT
        or (owner in _SPLIT_WEIGHTS and leaf == "weight")
        or (owner == "head" and leaf == "bias")
    )
    return split, "experts" in path
