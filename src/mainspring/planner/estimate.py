"""Bytes, FLOPs, traffic and seconds of a plan, worked out before anything is allocated.

States follow the ZeRO paper (arXiv 1910.02054, section 5) for fp32 masters and Adam, plus what this package
really holds beside them: gathered parameters, buffers of collectives, activations, logits.
"""

from __future__ import annotations

from typing import Literal

from mainspring.config import Section
from mainspring.nn import TransformerConfig
from mainspring.parallel.plan import Plan
from mainspring.planner.activations import Numerics, kept_bytes, logit_bytes, working_bytes
from mainspring.planner.machine import Machine
from mainspring.planner.parameters import ParameterCount, count_parameters
from mainspring.planner.units import amount, duration

EFFICIENCY = 0.85
"""Part of the measured best rate that the matrix products of a model reach."""
PASSES = 6
"""How often an activation goes through memory outside matrix products: written and read forward, read
backward, and the like for its gradient. (Both constants: docs/decisions/0003-parallel-on-fsdp2.md.)"""
RUNTIME_BYTES = 300 * 2**20
"""What a process holds before any tensor: the interpreter and the libraries (about 250 MiB resident on a
CPU)."""
_FP32 = 4
_ADAM_TRAFFIC = 28 + 8
"""Bytes moved for each parameter by an update: p, m, v, g read and p, m, v written; g read and scaled to
clip."""


class Estimate(Section):
    """What a plan costs. Bytes and seconds are of the fullest rank; FLOPs of the whole run where not said."""

    parameters: ParameterCount
    bytes_by_kind: dict[str, int]
    """parameters, gradients, optimizer, activations, buffers, runtime: they add up to `bytes_per_rank`."""
    bytes_per_rank: int
    """Peak resident bytes of a rank."""
    memory_per_rank: int
    """Bytes that the machine has for a rank."""
    tokens_per_step: int
    """Tokens of one optimizer step over all ranks."""
    accumulation: int
    """Micro-batches a step."""
    flops_per_token: float
    """FLOPs of the model for a token, forward and backward: 6 for each weight of a matrix product and 12 L i
    T for attention, in full also where causal (Chowdhery et al. 2022, arXiv 2204.02311, appendix B)."""
    flops_per_step: float
    """flops_per_token x tokens_per_step, without recomputation: what utilisation (MFU) is measured by."""
    flops_done_per_step: float
    """With recomputation: what the hardware really does."""
    traffic_per_step: float
    """Bytes that a rank sends in a step."""
    seconds_by_kind: dict[str, float]
    """matrix products, other compute, optimizer, communication: they add up to `seconds_per_step`."""
    seconds_per_step: float
    """Expected time of one optimizer step."""

    @property
    def tokens_per_second(self) -> float:
        """Expected throughput over all ranks."""
        return self.tokens_per_step / self.seconds_per_step

    @property
    def fits(self) -> bool:
        """Whether a rank's bytes are within what the machine has for it."""
        return self.bytes_per_rank <= self.memory_per_rank

    def table(self) -> list[tuple[str, str]]:
        """Rows (what, how much) to show a person."""
        rows = [("parameters", amount(self.parameters.total))]
        kinds = self.parameters.by_kind.items()
        rows += [(f"  {kind.replace('_', '-')}", amount(n)) for kind, n in kinds if n]
        rows += [("bytes per rank", amount(self.bytes_per_rank, "B"))]
        rows += [(f"  {kind}", amount(n, "B")) for kind, n in self.bytes_by_kind.items() if n]
        rows += [
            ("memory per rank", amount(self.memory_per_rank, "B")),
            (
                "tokens per step",
                f"{self.tokens_per_step:,} in {self.accumulation} micro-batch"
                f"{'' if self.accumulation == 1 else 'es'} a rank",
            ),
            ("FLOPs per token", amount(self.flops_per_token)),
            ("FLOPs per step", amount(self.flops_per_step)),
            ("sent per rank and step", amount(self.traffic_per_step, "B")),
            ("seconds per step", duration(self.seconds_per_step)),
        ]
        rows += [(f"  {kind}", duration(s)) for kind, s in self.seconds_by_kind.items() if s]
        return [*rows, ("tokens per second", f"{self.tokens_per_second:,.0f}")]


def estimate(
    config: TransformerConfig,
    plan: Plan,
    *,
    micro_rows: int,
    rows_per_rank: int,
    seq_len: int,
    precision: Literal["fp32", "bf16"],
    machine: Machine,
    predicted: float = 1.0,
    local_ranks: int | None = None,
    count: ParameterCount | None = None,
) -> Estimate:
    """Work out what training `config` under `plan` takes.

    Args:
        config: shape of the model.
        plan: how it is spread.
        micro_rows: rows of one forward and backward.
        rows_per_rank: rows of a rank in a step.
        seq_len: tokens a row.
        precision: "bf16" computes in bfloat16 over fp32 masters.
        machine: rates and memory.
        predicted: part of the tokens for which logits are computed (masked language models: about 0.15).
        local_ranks: ranks that share this machine's memory; None: all of them.
        count: what `count_parameters(config, plan.data)` gave, where it is known.
    """
    ranks = plan.data
    count = count or count_parameters(config, ranks)
    accumulation = rows_per_rank // micro_rows
    sharded = plan.zero > 0 and ranks > 1
    numerics: Numerics = "fp32" if precision == "fp32" else "bf16" if sharded else "autocast"
    cuda = machine.device == "cuda"
    states = _states(count, plan, accumulation, numerics)
    micro_tokens = micro_rows * seq_len
    kept = kept_bytes(config, seq_len, numerics, remat=plan.remat, cuda=cuda)
    passing = predicted * logit_bytes(config, numerics) + working_bytes(config, numerics, cuda=cuda)
    states["activations"] = round(micro_tokens * kept)
    states["buffers"] += round(micro_tokens * passing)
    states["runtime"] = RUNTIME_BYTES
    sharing = 1 if cuda else (local_ranks or plan.world)

    layers, head, attention = _forward_flops(config, count, seq_len, predicted)
    per_token = 3 * (layers + head + attention)
    tokens = ranks * rows_per_rank * seq_len
    done = per_token + (layers + attention if plan.remat else 0)
    traffic = _traffic(count, plan, accumulation, 2 if numerics == "bf16" else _FP32)
    between = machine.elementwise_bandwidth or machine.memory_bandwidth
    whole = kept_bytes(config, seq_len, numerics, cuda=cuda)  # recomputed or not, it is computed
    moved = PASSES * (whole + predicted * logit_bytes(config, numerics))
    seconds = {
        "matrix products": rows_per_rank * seq_len * done / (machine.flops(precision) * EFFICIENCY),
        "other compute": rows_per_rank * seq_len * moved / between,
        "optimizer": _ADAM_TRAFFIC * (count.shard if sharded else count.total) / machine.memory_bandwidth,
        "communication": traffic / machine.link_bandwidth,
    }
    return Estimate(
        parameters=count,
        bytes_by_kind=states,
        bytes_per_rank=sum(states.values()),
        memory_per_rank=machine.memory // sharing,
        tokens_per_step=tokens,
        accumulation=accumulation,
        flops_per_token=per_token,
        flops_per_step=per_token * tokens,
        flops_done_per_step=done * tokens,
        traffic_per_step=traffic,
        seconds_by_kind=seconds,
        seconds_per_step=sum(seconds.values()),
    )


def _states(count: ParameterCount, plan: Plan, accumulation: int, numerics: Numerics) -> dict[str, int]:
    """Bytes of parameters, gradients, optimizer states and buffers of a rank."""
    whole, shard, unit = count.total, count.shard, count.largest_unit
    compute = 2 if numerics == "bf16" else _FP32
    if plan.zero == 0 or plan.data == 1:
        copies = 2 * (count.matrix + count.head_matrix) if numerics == "autocast" else 0
        return {
            "parameters": _FP32 * whole,
            "gradients": _FP32 * whole,
            "optimizer": 2 * _FP32 * whole,
            "activations": 0,
            "buffers": copies,
        }
    # ZeRO 3 gathers the rest of the model and two layers: the one at work and the next.
    gathered = whole if plan.zero < 3 else min(whole, count.root + 2 * count.largest_layer)
    # Before a unit is reduced its gradients are there unsharded; ZeRO 1 adds all of them up that way.
    unsharded = _FP32 * whole if plan.zero == 1 and accumulation > 1 else compute * unit
    exchange = (2 * _FP32 + compute) * unit  # a reduce-scatter out and in; a gather before copies
    return {
        "parameters": _FP32 * shard + compute * gathered,
        "gradients": _FP32 * shard + unsharded,
        "optimizer": 2 * _FP32 * shard,
        "activations": 0,
        "buffers": exchange,
    }


def _forward_flops(
    config: TransformerConfig, count: ParameterCount, seq_len: int, predicted: float
) -> tuple[float, float, float]:
    """FLOPs of a forward for one token: matrix products of the layers, of the head, and attention."""
    inner = config.n_heads * config.head_width
    spans = config.encoder_layers + 2 * config.decoder_layers + config.n_layers
    return 2.0 * count.matrix, 2.0 * count.head_matrix * predicted, 4.0 * spans * inner * seq_len


def _traffic(count: ParameterCount, plan: Plan, accumulation: int, compute: int) -> float:
    """Bytes that a rank sends in a step."""
    ranks, whole, root = plan.data, count.total, count.root
    part = (ranks - 1) / ranks
    if plan.zero == 0:
        return 2 * part * _FP32 * whole
    reductions = 1 if plan.zero == 1 else accumulation
    gathers = whole if plan.zero < 3 else accumulation * (root + 2 * (whole - root))
    return part * (_FP32 * whole * reductions + compute * gathers)
