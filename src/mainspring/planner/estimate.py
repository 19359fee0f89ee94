"""Bytes, FLOPs, traffic and seconds of a plan, worked out before anything is allocated.

An `Estimate` is a `Cost` (see `planner.cost`) of a plan that `parallel.apply` carries out, with what a person
wants to read beside it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mainspring.config import Section
from mainspring.nn import TransformerConfig
from mainspring.objectives import Objective, ObjectiveConfig
from mainspring.parallel.plan import Plan
from mainspring.planner.candidate import Candidate
from mainspring.planner.cost import cost
from mainspring.planner.device import Device
from mainspring.planner.inventory import Inventory, inventory_of
from mainspring.planner.machine import Machine, device_of
from mainspring.planner.parameters import ParameterCount, count_parameters
from mainspring.planner.units import amount, duration
from mainspring.planner.work import work_of


class Estimate(Section):
    """What a plan costs. Bytes and seconds are of the fullest rank; FLOPs of the whole run where not said."""

    parameters: ParameterCount
    bytes_by_kind: dict[str, int]
    """parameters, gradients, optimizer, activations, buffers, fragmentation, runtime: they add up to
    `bytes_per_rank`. Live tensors at the peak of a step, the allocator's slack on those that come and go, and
    under `runtime` what the process or the device holds before any tensor."""
    bytes_per_rank: int
    """Peak bytes of a rank on its device (a CPU: resident in memory, the process and its libraries
    included)."""
    host_by_kind: dict[str, int] = Field(default_factory=dict)
    """The same of states that are kept in the memory of a GPU's host."""
    disk_by_kind: dict[str, int] = Field(default_factory=dict)
    """The same of states that are kept on disk."""
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
    """Bytes that a rank sends to others in a step."""
    seconds_by_kind: dict[str, float]
    """matrix products, other compute, pipeline bubble, optimizer, communication, offload: they add up to
    `seconds_per_step`."""
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
        by_kind = self.parameters.by_kind.items()
        rows += [(f"  {kind.replace('_', '-')}", amount(n)) for kind, n in by_kind if n]
        rows += [("bytes per rank", amount(self.bytes_per_rank, "B"))]
        rows += [(f"  {kind}", amount(n, "B")) for kind, n in self.bytes_by_kind.items() if n]
        for where, kinds in (("host", self.host_by_kind), ("disk", self.disk_by_kind)):
            if any(kinds.values()):
                rows += [(f"{where} bytes per rank", amount(sum(kinds.values()), "B"))]
                rows += [(f"  {kind} on the {where}", amount(n, "B")) for kind, n in kinds.items() if n]
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
    precision: Literal["fp32", "bf16", "fp16"],
    machine: Machine | Device,
    predicted: float | ObjectiveConfig = 1.0,
    objective: Objective | None = None,
    local_ranks: int | None = None,
    count: ParameterCount | None = None,
    inventory: Inventory | None = None,
) -> Estimate:
    """Work out what training `config` under `plan` takes.

    Args:
        config: shape of the network.
        plan: how it is spread.
        micro_rows: rows of one forward and backward.
        rows_per_rank: rows of a rank in a step.
        seq_len: tokens a row.
        precision: "bf16" computes in bfloat16 over fp32 masters.
        machine: rates and memory, measured or of a device of the catalogue.
        predicted: what a row is put through: the objective's settings, or of an objective of one pass the
            part of the tokens for which logits are computed (masked language models: about 0.15).
        objective: its modules beside the network (a generator, a slow copy, a queue) are counted too.
        local_ranks: ranks that share a measured machine's memory; None: all of them.
        count: what `count_parameters(config, plan.data, ...)` gave, where it is known.
        inventory: what `inventory_of(config, objective)` gave, where it is known.
    """
    count = count or count_parameters(config, plan.data, objective=objective, backend=plan.backend)
    inventory = inventory or inventory_of(config, objective)
    accumulation = rows_per_rank // micro_rows
    device = machine
    if isinstance(device, Machine):
        device = device_of(device, local_ranks or plan.world)
    work = work_of(config, seq_len, predicted)
    candidate = Candidate.of(plan, micro_rows, accumulation)
    found = cost(inventory, work, candidate, device, precision)
    return Estimate(
        parameters=count,
        bytes_by_kind=found.device_bytes,
        bytes_per_rank=found.memory,
        host_by_kind=found.host_bytes,
        disk_by_kind=found.disk_bytes,
        memory_per_rank=device.memory,
        tokens_per_step=found.tokens,
        accumulation=accumulation,
        flops_per_token=found.flops / found.tokens,
        flops_per_step=found.flops,
        flops_done_per_step=found.flops_done,
        traffic_per_step=found.traffic["node"] + found.traffic["network"],
        seconds_by_kind=found.seconds,
        seconds_per_step=found.seconds_per_step,
    )
