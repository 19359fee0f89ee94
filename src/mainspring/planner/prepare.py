"""The whole question at once: how is the batch cut, what does it cost, does it fit?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Literal, NamedTuple

from mainspring.errors import PlanError
from mainspring.nn import TransformerConfig
from mainspring.objectives import Objective, ObjectiveConfig
from mainspring.parallel.plan import Plan
from mainspring.planner.batch import CPU_MICRO_TOKENS, Batch, split_batch
from mainspring.planner.candidate import FOLDER
from mainspring.planner.device import Device
from mainspring.planner.estimate import Estimate, estimate
from mainspring.planner.inventory import inventory_of
from mainspring.planner.machine import Machine, device_of
from mainspring.planner.parameters import count_parameters
from mainspring.planner.units import amount


class Prepared(NamedTuple):
    """A batch cut to fit, and what it costs."""

    batch: Batch
    estimate: Estimate


def prepare(
    config: TransformerConfig,
    plan: Plan,
    *,
    batch_tokens: int,
    seq_len: int,
    precision: Literal["fp32", "bf16", "fp16"],
    machine: Machine | Device,
    predicted: float | ObjectiveConfig = 1.0,
    objective: Objective | None = None,
    local_ranks: int | None = None,
) -> Prepared:
    """Cut the global batch into the largest micro-batches that fit and work out the cost.

    The arguments are those of `estimate` and `split_batch`.

    Raises:
        ConfigError: the batch cannot be cut evenly.
        PlanError: it does not fit in the memory of the device, of the host or on disk; the message has the
            numbers and the nearest plan that fits.
    """
    if isinstance(machine, Machine):
        machine = device_of(machine, local_ranks or plan.world, plan.offload_folder or ".")
    inventory = inventory_of(config, objective)
    count = count_parameters(config, plan.data, objective=objective, backend=plan.backend)

    def cost(spread: Plan, micro: int, rows: int) -> Estimate:
        return estimate(
            config,
            spread,
            micro_rows=micro,
            rows_per_rank=rows,
            seq_len=seq_len,
            precision=precision,
            machine=machine,
            predicted=predicted,
            objective=objective,
            count=count,
            inventory=inventory,
        )

    micro_tokens = CPU_MICRO_TOKENS if machine.kind == "cpu" else 0
    # Validates the batch before any memory is asked about.
    whole = split_batch(batch_tokens, seq_len, plan, 0.0, float("inf"), micro_tokens=micro_tokens)
    rows = whole.rows_per_rank
    # Two micro-batches: ZeRO 1 then has its accumulated gradients in the fixed part.
    one, two = cost(plan, 1, 2 * rows), cost(plan, 2, 4 * rows)
    row_bytes = two.bytes_per_rank - one.bytes_per_rank
    fixed = one.bytes_per_rank - row_bytes
    lacks = _lacks(one, machine)
    if lacks:
        fits = [p for p in _alternatives(plan) if not _lacks(cost(p, 1, 2 * rows), machine)]
        raise PlanError(_refusal(lacks, seq_len, fits, lambda p: cost(p, 1, 2 * rows)))
    batch = split_batch(
        batch_tokens, seq_len, plan, row_bytes, one.memory_per_rank - fixed, micro_tokens=micro_tokens
    )
    return Prepared(batch, cost(plan, batch.micro_rows, batch.rows_per_rank))


def _lacks(cost: Estimate, device: Device) -> str:
    """What does not fit, with its numbers; nothing where all does."""
    for where, kinds, has in (
        ("", cost.bytes_by_kind, cost.memory_per_rank),
        (" on its host", cost.host_by_kind, device.host_memory),
        (" on disk", cost.disk_by_kind, device.disk),
    ):
        needs = sum(kinds.values())
        if needs > has:
            parts = ", ".join(f"{kind} {amount(n, 'B')}" for kind, n in kinds.items() if n)
            return f"{amount(needs, 'B')}{where} ({parts}) and has {amount(has, 'B')}"
    return ""


def _alternatives(plan: Plan) -> list[Plan]:
    """Plans on the same ranks that take less memory, the cheapest change first."""
    stages = range(plan.zero, 4)
    tiers = _tiers(plan)
    found = []
    for tier, remat, stage in product(tiers, sorted({plan.remat, True}), stages):
        if tier != "none" and (stage == 0 or plan.backend != "flat"):
            continue
        folder = plan.offload_folder or FOLDER if tier == "disk" else None
        changes = {"zero": stage, "remat": remat, "offload": tier, "offload_folder": folder}
        if tier != "host":  # they belong to the host alone
            changes |= {"offload_ratio": 1.0, "offload_delay": None}
        if stage:  # shards reduce in the dtype of computation
            changes["gradient_dtype"] = "fp32"
        if plan.data == 1 and tier == "none" and stage != plan.zero:
            continue  # nothing to shard over
        if plan.communication != "exact" and (tier != "none" or stage > plan.zero):
            continue  # ranks need their own gradients, whole and here
        if (spread := plan.replace(**changes)) != plan:
            found.append(spread)
    return found


def _tiers(plan: Plan) -> list[str]:
    """Where states may go, from where the plan has them on downward."""
    order = ["none", "host", "disk"]
    return order[order.index(plan.offload) :]


def _refusal(lacks: str, seq_len: int, fits: list[Plan], cost: Callable[[Plan], Estimate]) -> str:
    message = f"a rank that computes one row of {seq_len} tokens at once needs {lacks}"
    if fits:
        first = fits[0]
        found = cost(first)
        offload = "" if first.offload == "none" else f" plan.offload={first.offload}"
        if first.offload_folder is not None:
            offload += f" plan.offload_folder={first.offload_folder}"
        return (
            f"{message}; this would fit, in {amount(found.bytes_per_rank, 'B')}: plan.zero={first.zero} "
            f"plan.remat={str(first.remat).lower()}{offload}"
        )
    return (
        f"{message}; no ZeRO stage on these ranks fits: use more ranks or machines, a smaller model or "
        "shorter rows"
    )
