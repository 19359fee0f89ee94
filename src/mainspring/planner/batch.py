"""From the global batch in tokens to rows, micro-batches and accumulation: derived, never set."""

from __future__ import annotations

from mainspring.config import Section
from mainspring.errors import ConfigError, PlanError
from mainspring.parallel.pipeline.rounds import fits
from mainspring.parallel.plan import Plan

CPU_MICRO_TOKENS = 4096
"""Tokens of a micro-batch beyond which a CPU core's matrix products get no faster; more would only cost
memory."""


class Batch(Section):
    """How a global batch is cut: rows = data ranks x rows_per_rank, rows_per_rank = micro_rows x
    accumulation."""

    rows: int
    """Rows of the global batch."""
    rows_per_rank: int
    """Rows each data rank takes of it."""
    micro_rows: int
    """Rows of one forward and backward."""
    accumulation: int
    """Forwards and backwards in a step."""


def split_batch(
    batch_tokens: int,
    seq_len: int,
    plan: Plan,
    row_bytes: float,
    memory: float,
    *,
    micro_tokens: int = CPU_MICRO_TOKENS,
) -> Batch:
    """Cut a global batch into the largest micro-batches that fit.

    `micro_rows` is the largest divisor of a rank's rows whose activations fit in `memory` and that has at
    most `micro_tokens` tokens (one row is always allowed): matrix products on a CPU saturate there, so that
    larger ones cost memory and gain nothing. A pipeline wants several micro-batches a rank, as many as its
    schedule takes.

    Args:
        batch_tokens: tokens of one optimizer step over all ranks (`train.batch_tokens`).
        seq_len: tokens a row (`data.seq_len`).
        plan: gives the number of data ranks.
        row_bytes: bytes that one row's forward and backward need.
        memory: bytes a rank has for them.
        micro_tokens: upper bound of a micro-batch in tokens; 0 for none.

    Raises:
        ConfigError: the batch is not whole rows, or its rows do not divide by the data ranks.
        PlanError: not even one row fits, or the pipeline's schedule takes no such number of micro-batches.
    """
    unit = seq_len * plan.data
    if batch_tokens % seq_len or (batch_tokens // seq_len) % plan.data or batch_tokens <= 0:
        below = batch_tokens // unit * unit
        near = " or ".join(str(v) for v in (below, below + unit) if v > 0)
        raise ConfigError(
            f"train.batch_tokens = {batch_tokens}: should be a multiple of {unit} (data.seq_len = {seq_len} "
            f"x plan.data = {plan.data}), so that every rank takes the same number of whole rows; "
            f"nearest: {near}"
        )
    rows = batch_tokens // seq_len
    per_rank = rows // plan.data
    if row_bytes > memory:
        raise PlanError(
            f"one row of {seq_len} tokens needs {row_bytes / 2**20:,.0f} MiB of activations and a rank has "
            f"{max(memory, 0) / 2**20:,.0f} MiB left for them; shorten data.seq_len, set plan.remat=true, "
            "or shard more (a higher plan.zero, more ranks)"
        )
    limit = per_rank if row_bytes <= 0 else min(per_rank, int(memory // row_bytes))
    if micro_tokens:
        limit = min(limit, max(1, micro_tokens // seq_len))
    sizes = [size for size in range(1, limit + 1) if per_rank % size == 0 and fits(plan, per_rank // size)]
    if not sizes:
        raise PlanError(
            f"no cut of {per_rank} rows a rank into micro-batches suits pipeline_schedule = "
            f'"{plan.pipeline_schedule}" over {plan.pipeline} ranks, which needs at least {plan.pipeline} of '
            "equal size; raise train.batch_tokens, or lower plan.pipeline"
        )
    # Four micro-batches a rank leave a pipeline idle for a fifth of its time at most; more cost little.
    filled = [size for size in sizes if per_rank // size >= 4 * plan.pipeline]
    micro = max(sizes) if plan.pipeline == 1 else max(filled, default=min(sizes))
    return Batch(rows=rows, rows_per_rank=per_rank, micro_rows=micro, accumulation=per_rank // micro)
