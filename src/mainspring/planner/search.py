"""Every way to spread a run over a number of ranks, costed; the best, the rest, and why.

The space is that of Narayanan et al. 2021 (arXiv 2104.04473) and of DeepSpeed's stages and tiers: all
factorisations of the world into data x sequence x tensor x pipeline, expert ranks, schedules, the ZeRO
stages, what layers keep for backward, where states are, and every way to cut a rank's rows in micro-batches.
Nothing is pruned silently: a way to spread the model that cannot be, or a candidate that does not fit, is
kept with its reason and its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from mainspring.errors import PlanError, few
from mainspring.parallel.precision import Precision
from mainspring.planner.activations import keeps_scores
from mainspring.planner.batch import CPU_MICRO_TOKENS
from mainspring.planner.candidate import Candidate, Offload
from mainspring.planner.cost import Cost, cost
from mainspring.planner.device import Device
from mainspring.planner.inventory import Inventory
from mainspring.planner.published import Kept
from mainspring.planner.schedule import Schedule
from mainspring.planner.units import amount
from mainspring.planner.work import Work


@dataclass(frozen=True)
class Costed:
    """A candidate that fits."""

    candidate: Candidate
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self.candidate.as_dict(),
            "cannot_run_yet": self.candidate.missing(),
            "seconds_per_step": self.cost.seconds_per_step,
            "tokens_per_second": self.cost.tokens_per_second,
            "device_bytes": self.cost.device_bytes,
            "host_bytes": self.cost.host_bytes,
            "disk_bytes": self.cost.disk_bytes,
            "seconds": self.cost.seconds,
            "traffic": self.cost.traffic,
        }


@dataclass(frozen=True)
class Rejected:
    """A candidate that is no plan, and why."""

    candidate: Candidate
    reason: str
    """What rules it out, in words."""
    numbers: dict[str, float]
    """The figures that say so."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.candidate.as_dict(), "reason": self.reason, "numbers": self.numbers}


@dataclass(frozen=True)
class Found:
    """What a search gives."""

    fits: tuple[Costed, ...]
    """All that fit, fastest first."""
    rejected: tuple[Rejected, ...]
    """All others, in the order of the search."""

    @property
    def pareto(self) -> tuple[Costed, ...]:
        """Those that no other beats in one of seconds, device bytes and ranks without losing in another."""
        kept: list[Costed] = []
        for one in sorted(self.fits, key=_figures):
            mine = _figures(one)
            if not any(all(a <= b for a, b in zip(_figures(o), mine, strict=True)) for o in kept):
                kept.append(one)
        return tuple(kept)

    def best(self, *, runs: bool = False) -> Costed:
        """The fastest; with `runs`, of those that `parallel.apply` carries out today.

        Raises:
            PlanError: nothing fits; the message names what comes nearest.
        """
        for one in self.fits:
            if not (runs and one.candidate.missing()):
                return one
        raise PlanError(self.nearest())

    def nearest(self) -> str:
        """What lacks least, for a message."""
        by_lack = [r for r in self.rejected if "over" in r.numbers]
        if not by_lack:
            why = list(dict.fromkeys(one.reason for one in self.rejected)) or ["there was nothing to try"]
            return f"no plan: {few(why, '; ', most=3)}"
        least = min(by_lack, key=lambda r: r.numbers["over"])
        return f"no plan fits; the nearest is {least.candidate.overrides()}: {least.reason}"


@dataclass(frozen=True)
class Space:
    """What is tried. Structural limits (heads, layers, batch) reject; they are not narrowed here."""

    tensor: Sequence[int] = (1, 2, 4, 8, 16)
    tensor_sequence: Sequence[bool] = (False, True)
    """With tensor ranks."""
    pipeline: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    schedules: Sequence[tuple[Schedule, int]] = (("1f1b", 1), ("interleaved", 2), ("zero_bubble", 1))
    """With their chunks; gpipe has the bubble of 1f1b and never fewer bytes."""
    expert: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    """Of a model with experts."""
    sequence: Sequence[int] = (1, 2, 4, 8)
    attention: Sequence[Literal["heads", "ring"]] = ("heads", "ring")
    """With sequence ranks."""
    zero: Sequence[int] = (0, 1, 2, 3)
    kept: Sequence[Kept] = ("all", "selective", "input")
    offload: Sequence[Offload] = ("none", "host", "disk")
    halvings: int = 0
    """How often the world is also tried at half the size."""


def search(
    inventory: Inventory,
    work: Work,
    device: Device,
    world: int,
    rows: int,
    precision: Precision = "bf16",
    *,
    space: Space | None = None,
) -> Found:
    """Cost every candidate over `world` ranks.

    Args:
        inventory: of the module that is trained (`inventory_of`).
        work: what a row is put through (`work_of`).
        device: what a rank computes on.
        world: ranks.
        rows: of the global batch.
        precision: of forward and backward.
        space: what is tried; None: everything.

    Returns:
        What fits, fastest first, and what does not, with reasons.
    """
    space = space or Space()
    fits: list[Costed] = []
    rejected: list[Rejected] = []
    for size in dict.fromkeys(world // 2**k for k in range(space.halvings + 1) if world % 2**k == 0):
        for spread in _spreads(space, size, inventory):
            refusal = _structure(spread, inventory, work, device, rows)
            if refusal is not None:
                rejected.append(refusal)
                continue
            for candidate in _cuts(space, spread, rows):
                judged = _combination(candidate, work, device) or judge(
                    inventory, work, candidate, device, precision
                )
                if isinstance(judged, Costed):
                    fits.append(judged)
                else:
                    rejected.append(judged)
    return Found(tuple(sorted(fits, key=_figures)), tuple(rejected))


def judge(
    inventory: Inventory, work: Work, candidate: Candidate, device: Device, precision: Precision
) -> Costed | Rejected:
    """Cost one candidate and hold it against the device's memory, host and disk."""
    found = cost(inventory, work, candidate, device, precision)
    for where, needs, has in (
        ("device", found.memory, device.memory),
        ("host", found.host, device.host_memory),
        ("disk", found.disk, device.disk),
    ):
        if needs > has:
            kinds = {"device": found.device_bytes, "host": found.host_bytes, "disk": found.disk_bytes}[where]
            most = max(kinds, key=lambda kind: kinds[kind])
            reason = (
                f"a rank needs {amount(needs, 'B')} on the {where} and has {amount(has, 'B')}; most of it is "
                f"{most}, {amount(kinds[most], 'B')}"
            )
            numbers = {"needs": needs, "has": has, "over": needs - has, **_prefixed(where, kinds)}
            return Rejected(candidate, reason, numbers)
    return Costed(candidate, found)


def _prefixed(where: str, kinds: dict[str, int]) -> dict[str, float]:
    return {f"{where} {kind}": float(n) for kind, n in kinds.items() if n}


def _figures(one: Costed) -> tuple[float, int, int]:
    return one.cost.seconds_per_step, one.cost.memory, one.candidate.world


def _spreads(space: Space, world: int, inventory: Inventory) -> Iterator[Candidate]:
    """Every way to spread the model over `world` ranks; with data = 0 where that does not come out even."""
    experts = space.expert if _has_experts(inventory) else [n for n in space.expert if n == 1] or [1]
    for tensor, pipeline, sequence in product(space.tensor, space.pipeline, space.sequence):
        split = tensor * pipeline * sequence
        if split > world:
            continue
        data = 0 if world % split else world // split
        for shared, (schedule, chunks), expert, attention in product(
            space.tensor_sequence if tensor > 1 else (False,),
            space.schedules if pipeline > 1 else (("1f1b", 1),),
            experts,
            space.attention if sequence > 1 else ("heads",),
        ):
            yield Candidate(
                data=data,
                tensor=tensor,
                tensor_sequence=shared,
                pipeline=pipeline,
                schedule=schedule,
                chunks=chunks,
                expert=expert,
                sequence=sequence,
                attention=attention,
            )


def _cuts(space: Space, spread: Candidate, rows: int) -> Iterator[Candidate]:
    """Every way to cut a rank's rows and to keep what there is."""
    per_rank = rows // spread.data
    sizes = [n for n in range(1, per_rank + 1) if per_rank % n == 0 and (n & (n - 1) == 0 or n == per_rank)]
    for zero, kept, offload, micro in product(space.zero, space.kept, space.offload, sizes):
        if zero or offload == "none":  # offloaded masters are shards: the same as stage 1
            changes: dict[str, Any] = {"zero": zero, "kept": kept, "offload": offload}
            yield replace(spread, **changes, micro_rows=micro, accumulation=per_rank // micro)


def _has_experts(inventory: Inventory) -> bool:
    return any(part.expert for unit in inventory.units for part in unit.parts)


def _structure(
    spread: Candidate, inventory: Inventory, work: Work, device: Device, rows: int
) -> Rejected | None:
    """Why a model cannot be spread so, whatever the memory."""
    config, c = work.main.config, spread

    def no(reason: str, **numbers: float) -> Rejected:
        return Rejected(spread, reason, numbers)

    if c.data == 0:
        split = c.tensor * c.pipeline * c.sequence
        return no(f"tensor x pipeline x sequence = {split} does not divide the number of ranks", split=split)
    if c.tensor > device.ranks_per_node:
        return no(
            f"tensor = {c.tensor} reaches beyond a node of {device.ranks_per_node} ranks",
            tensor=c.tensor,
            ranks_per_node=device.ranks_per_node,
        )
    if c.tensor > 1 and not inventory.even:
        return no("no part of the model says how it can be cut over tensor ranks", tensor=c.tensor)
    if inventory.even % c.tensor:
        what = f"{config.n_heads} heads" if config.n_heads % c.tensor else "heads, widths and the like"
        return no(f"{what} do not divide by tensor = {c.tensor}", heads=config.n_heads, even=inventory.even)
    if c.attention == "heads" and config.n_heads // c.tensor < c.sequence:
        return no(
            f"{config.n_heads} heads are fewer than tensor x sequence = {c.tensor * c.sequence}",
            heads=config.n_heads,
            split=c.tensor * c.sequence,
        )
    if c.attention == "ring" and config.disentangled is not None:
        return no("a ring has no disentangled attention: its distances need all pairs", sequence=c.sequence)
    if c.sequence > 1 and config.conv is not None:
        return no("the convolution reads neighbours that other ranks would hold", sequence=c.sequence)
    depth = len(inventory.blocks)
    if c.pipeline > 1 and not inventory.costs:
        return no("what is trained cannot be cut into stages: only whole models can", stages=c.pipeline)
    if c.pipeline > 1 and c.pipeline * c.chunks > depth:
        stages = c.pipeline * c.chunks
        return no(f"{depth} layers are fewer than {stages} stages", layers=depth, stages=stages)
    split = c.sequence * (c.tensor if c.tensor_sequence else 1)
    if work.seq_len % split:
        return no(
            f"rows of {work.seq_len} tokens do not divide by sequence (x tensor) = {split}",
            seq_len=work.seq_len,
            split=split,
        )
    if rows % c.data:
        near = " or ".join(str(n) for n in (rows // c.data * c.data, (rows // c.data + 1) * c.data) if n)
        return no(
            f"{rows} rows do not divide by data = {c.data}; nearest global batch: {near} rows",
            rows=rows,
            data=c.data,
        )
    if c.data % c.expert:
        return no(f"expert = {c.expert} does not divide data = {c.data}", expert=c.expert, data=c.data)
    counts = {n for stack in config.experts_by_layer for n in stack if n}
    if any(n % c.expert for n in counts):
        sizes = few([str(n) for n in sorted(counts)])
        return no(f"layers of {sizes} experts do not divide by expert = {c.expert}", expert=c.expert)
    return None


def _combination(candidate: Candidate, work: Work, device: Device) -> Rejected | None:
    """Why parts of a candidate do not go together."""
    c = candidate

    def no(reason: str, **numbers: float) -> Rejected:
        return Rejected(candidate, reason, numbers)

    if c.zero and c.replicas == 1 and c.offload == "none":
        return no(f"zero = {c.zero} has one rank to shard over: the same as zero = 0", zero=c.zero)
    if c.pipeline > 1 and c.zero > 1:
        return no(
            f"zero = {c.zero} under a pipeline reduces or gathers in every micro-batch; use zero = 1",
            zero=c.zero,
            pipeline=c.pipeline,
        )
    if c.schedule == "zero_bubble" and c.remat:
        return no(
            "zero_bubble enters a block once for every matrix, and would recompute it each time", remat=1
        )
    if c.kept == "selective" and not any(keeps_scores(one.config) for one in work.passes):
        return no("attention is fused and keeps no scores that could be left out", scores=0)
    if c.accumulation < c.pipeline:
        return no(
            f"{c.accumulation} micro-batches leave {c.pipeline} stages idle",
            micro_batches=c.accumulation,
            stages=c.pipeline,
        )
    if device.kind == "cpu" and c.offload == "host":
        return no("the device is the host: nothing is moved by offloading to it", memory=device.memory)
    if device.kind == "cpu" and c.micro_rows > 1 and c.micro_rows * work.seq_len > CPU_MICRO_TOKENS:
        return no(
            f"a micro-batch of {c.micro_rows * work.seq_len} tokens costs memory and gains nothing on a CPU",
            tokens=c.micro_rows * work.seq_len,
            most=CPU_MICRO_TOKENS,
        )
    return None
