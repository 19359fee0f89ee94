"""A plan carried out in a fake world, to count what a rank of it holds.

One process plays one rank of many: torch's fake process group answers every collective at once, and the
model lives on the meta device, so a trillion parameters on 1,024 ranks take some hundred megabytes and
seconds. What runs is the real `parallel.apply`; what is counted are the storages that it and an optimizer's
step made, and for the rows that exist during computation alone the sizes that the engine has laid out. The
planner's formulas are held against that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring import parallel
from mainspring.errors import PlanError
from mainspring.nn import Transformer, TransformerConfig
from mainspring.objectives import Objective, assemble
from mainspring.parallel.precision import Precision
from mainspring.parallel.strategy import strategy_of
from mainspring.parallel.zero.engine import Flat
from mainspring.parallel.zero.unit import Row
from mainspring.planner.candidate import Candidate
from mainspring.planner.cost import numerics_of
from mainspring.planner.inventory import take_inventory
from mainspring.planner.memory import peak_resident
from mainspring.planner.states import state_bytes

COUNTED = ("parameters", "gradients", "optimizer")
"""Kinds of bytes that are counted; activations and buffers exist during computation alone."""


@dataclass(frozen=True)
class Verified:
    """What was predicted for a rank, and what was counted on it, in bytes by kind."""

    candidate: Candidate
    predicted: dict[str, int]
    counted: dict[str, int]
    seconds: float
    """Time that the fake world took."""
    resident: int
    """Most memory that this process has ever held, in bytes."""

    @property
    def error(self) -> float:
        """Relative difference of the two sums."""
        predicted, counted = sum(self.predicted.values()), sum(self.counted.values())
        return abs(predicted - counted) / counted


@contextmanager
def fake_world(size: int, rank: int = 0) -> Iterator[None]:
    """Be rank `rank` of `size` ranks of which the others do not exist; collectives do nothing.

    Raises:
        PlanError: this process is a rank of a real world.
    """
    if dist.is_initialized():
        raise PlanError("a fake world needs a process that is not a rank of a real one")
    from torch.testing._internal.distributed.fake_pg import FakeStore

    store: Any = FakeStore()
    dist.init_process_group("fake", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        yield
    finally:
        dist.destroy_process_group()


def verify(
    config: TransformerConfig,
    candidate: Candidate,
    precision: Precision = "bf16",
    *,
    objective: Objective | None = None,
    rank: int = 0,
) -> Verified:
    """Carry a candidate out on meta tensors and count the states of a rank; rank 0 is its stage's fullest.

    Raises:
        PlanError: `parallel.apply` cannot carry it out yet, or this process is a rank of a real world.
    """
    plan = candidate.plan()
    if plan is None:
        raise PlanError(f"parallel.apply cannot carry out {', '.join(candidate.missing())} yet")
    began = time.perf_counter()
    with torch.device("meta"):
        network = Transformer(config)
        model: nn.Module = network if objective is None else assemble(objective, network)
    inventory = take_inventory(model)
    with fake_world(plan.world, rank):
        parallel.apply(model, plan, precision=precision, reduce="sum")
        counted = count_states(model, candidate, precision)
    stage = rank * candidate.pipeline // candidate.world
    states = state_bytes(inventory, candidate, numerics_of(candidate, precision), stage=stage).device
    return Verified(
        candidate,
        {kind: states[kind] for kind in COUNTED},
        counted,
        time.perf_counter() - began,
        peak_resident(),
    )


def count_states(model: nn.Module, candidate: Candidate, precision: Precision) -> dict[str, int]:
    """Bytes by kind that a rank holds for a model on meta to which a plan was applied."""
    strategy = strategy_of(model)
    parameters = list(model.parameters())
    counted = {"parameters": _storages(parameters)}
    # torch's own AdamW knows meta tensors; its states are those of every optimizer of the family.
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], foreach=False)
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    counted["gradients"] = _storages(p.grad for p in trained if p.grad is not None)
    with torch.no_grad():
        optimizer.step()
    counted["optimizer"] = _storages(
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.numel() > 1
    )
    if isinstance(strategy, Flat):
        counted["parameters"] += _gathered(strategy, candidate.zero)
        counted["gradients"] = _gradients(strategy, candidate)
        if candidate.zero == 3:
            counted["parameters"] += sum(
                s.numel * s.compute_dtype.itemsize for s in strategy.shards if s.compute_dtype != s.dtype
            )
    elif candidate.zero and candidate.replicas > 1:  # what FSDP2 gathers, in the dtype of computation
        item = 4 if precision == "fp32" else 2
        inventory = take_inventory(model)
        sizes = sorted((unit.numel for unit in inventory.blocks), reverse=True)
        window = inventory.root.numel + sum(sizes[:2])
        whole = inventory.total
        counted["parameters"] += item * (whole if candidate.zero < 3 else min(whole, window))
        summed = candidate.zero == 1 and candidate.accumulation > 1
        largest = max(unit.numel for unit in inventory.units)
        counted["gradients"] += 4 * whole if summed else item * largest
    return counted


def _storages(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the storages under tensors, each once."""
    found: dict[int, int] = {}
    for tensor in tensors:
        if tensor is not None:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            storage = local.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def _gathered(strategy: Flat, stage: int) -> int:
    """Bytes of the rows that hold whole parameters at once."""
    sizes = [sum(_row_bytes(row) for row in unit.rows) for unit in strategy.units]
    if stage < 3:
        return sum(sizes)
    root, *blocks = sizes
    pairs = [sum(blocks[i : i + 2]) for i in range(max(1, len(blocks) - 1))]
    return root + max(pairs)


def _gradients(strategy: Flat, candidate: Candidate) -> int:
    rows = [row for unit in strategy.units for row in unit.rows if row.shard.trainable]
    summed = candidate.accumulation > 1
    if candidate.zero == 1:
        return sum(row.layout.padded * (4 if summed else row.shard.compute_dtype.itemsize) for row in rows)
    return sum(row.layout.part * (4 if summed else row.shard.compute_dtype.itemsize) for row in rows)


def _row_bytes(row: Row) -> int:
    return row.layout.padded * row.shard.compute_dtype.itemsize
