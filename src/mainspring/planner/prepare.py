"""The whole question at once: how is the batch cut, what does it cost, does it fit?"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mainspring.errors import PlanError
from mainspring.nn import TransformerConfig
from mainspring.parallel.plan import Plan
from mainspring.planner.batch import CPU_MICRO_TOKENS, Batch, split_batch
from mainspring.planner.estimate import Estimate, estimate
from mainspring.planner.machine import Machine
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
    precision: Literal["fp32", "bf16"],
    machine: Machine,
    predicted: float = 1.0,
    local_ranks: int | None = None,
) -> Prepared:
    """Cut the global batch into the largest micro-batches that fit and work out the cost.

    The arguments are those of `estimate` and `split_batch`.

    Raises:
        ConfigError: the batch cannot be cut evenly.
        PlanError: it does not fit in memory; the message has the numbers and what would fit.
    """

    count = count_parameters(config, plan.data)

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
            local_ranks=local_ranks,
            count=count,
        )

    micro_tokens = 0 if machine.device == "cuda" else CPU_MICRO_TOKENS
    # Validates the batch before any memory is asked about.
    rows = split_batch(batch_tokens, seq_len, plan, 0.0, 0.0, micro_tokens=micro_tokens).rows_per_rank
    # Two micro-batches: ZeRO 1 then has its accumulated gradients in the fixed part.
    one, two = cost(plan, 1, 2 * rows), cost(plan, 2, 4 * rows)
    row_bytes = two.bytes_per_rank - one.bytes_per_rank
    fixed = one.bytes_per_rank - row_bytes
    if one.bytes_per_rank > one.memory_per_rank:
        better = [
            spread
            for spread in _alternatives(plan)
            if (e := cost(spread, 1, 2 * rows)).bytes_per_rank <= e.memory_per_rank
        ]
        raise PlanError(_refusal(one, seq_len, better))
    batch = split_batch(
        batch_tokens, seq_len, plan, row_bytes, one.memory_per_rank - fixed, micro_tokens=micro_tokens
    )
    return Prepared(batch, cost(plan, batch.micro_rows, batch.rows_per_rank))


def _alternatives(plan: Plan) -> list[Plan]:
    """Plans on the same ranks that take less memory, the cheapest change first."""
    stages = range(plan.zero, 4) if plan.data > 1 else [plan.zero]
    return [
        spread
        for remat in sorted({plan.remat, True})
        for stage in stages
        if (spread := plan.replace(zero=stage, remat=remat)) != plan
    ]


def _refusal(cost: Estimate, seq_len: int, better: list[Plan]) -> str:
    parts = ", ".join(f"{kind} {amount(n, 'B')}" for kind, n in cost.bytes_by_kind.items() if n)
    message = (
        f"a rank needs {amount(cost.bytes_per_rank, 'B')} even with micro-batches of one row of "
        f"{seq_len} tokens ({parts}) and has {amount(cost.memory_per_rank, 'B')}"
    )
    if better:
        first = better[0]
        return f"{message}; this would fit: plan.zero={first.zero} plan.remat={str(first.remat).lower()}"
    return (
        f"{message}; no ZeRO stage on these ranks fits: use more ranks or machines, a smaller model or "
        "shorter rows"
    )
