"""A way to spread a run, as the search sees it: more axes than `parallel.apply` carries out today."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from mainspring.parallel.plan import Plan
from mainspring.planner.published import Kept
from mainspring.planner.schedule import Schedule

Offload = Literal["none", "host", "disk"]
Backend = Literal["flat", "fsdp2"]
FOLDER = "offload"
"""What a plan made of a candidate calls the folder of states on disk."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Degrees of every kind of parallelism; their product (expert apart) is the number of ranks.

    Ranks are numbered as Megatron and DeepSpeed do: pipeline slowest, then data, then sequence, then tensor,
    so that tensor ranks are neighbours.
    """

    data: int = 1
    """Ranks that each take a share of the batch."""
    tensor: int = 1
    """Ranks that share every layer's products."""
    tensor_sequence: bool = False
    """They also share the tokens of what lies between (Korthikanti et al. 2022)."""
    pipeline: int = 1
    """Stages that each hold some of the layers."""
    schedule: Schedule = "1f1b"
    """In which order a stage goes forward and backward; all have a flush at the end of a step."""
    chunks: int = 1
    """Separate runs of layers that a stage holds."""
    expert: int = 1
    """Data ranks among which the experts are spread."""
    sequence: int = 1
    """Ranks that share the tokens of a row."""
    attention: Literal["heads", "ring"] = "heads"
    """With "heads" they change to heads for attention (Ulysses); with "ring" keys and values go round."""
    zero: int = 0
    """ZeRO stage over the data and sequence ranks."""
    kept: Kept = "all"
    """What layers keep for backward."""
    offload: Offload = "none"
    """Where masters and moments are, and at stage 3 with "disk" the 16-bit parameters too."""
    ratio: float = 1.0
    """With "host": part of the states that goes there."""
    micro_rows: int = 1
    """Rows of one forward and backward."""
    accumulation: int = 1
    """Micro-batches of a step."""
    backend: Backend = "flat"
    communication: Literal["exact", "compressed", "adasum"] = "exact"
    """How data ranks join what they computed; with "compressed" costs are those after the warm-up."""
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    """In what gradients travel at ZeRO 0."""

    @property
    def world(self) -> int:
        """Ranks."""
        return self.data * self.sequence * self.tensor * self.pipeline

    @property
    def replicas(self) -> int:
        """Ranks over which ZeRO shards."""
        return self.data * self.sequence

    @property
    def remat(self) -> bool:
        """Whether layers are computed twice."""
        return self.kept == "input"

    @classmethod
    def of(cls, plan: Plan, micro_rows: int = 1, accumulation: int = 1) -> Candidate:
        """What a plan says."""
        return cls(
            data=plan.data,
            tensor=plan.tensor,
            tensor_sequence=plan.tensor_sequence,
            pipeline=plan.pipeline,
            schedule=plan.pipeline_schedule,
            chunks=plan.pipeline_chunks,
            expert=plan.expert,
            sequence=plan.sequence,
            attention=plan.sequence_attention,
            zero=plan.zero if plan.world > 1 or plan.offload != "none" else 0,
            kept="input" if plan.remat else "all",
            offload=plan.offload,
            ratio=plan.offload_ratio,
            micro_rows=micro_rows,
            accumulation=accumulation,
            backend=plan.backend,
            communication=plan.communication,
            gradient_dtype=plan.gradient_dtype,
        )

    def missing(self) -> list[str]:
        """What of it `parallel.apply` cannot carry out yet; empty for a plan that runs."""
        return ["selective recomputation"] if self.kept == "selective" else []

    def plan(self) -> Plan | None:
        """The plan that says the same; None where `parallel.apply` cannot carry it out yet."""
        if self.missing():
            return None
        values: dict[str, Any] = {
            "data": self.data,
            "zero": self.zero,
            "remat": self.remat,
            "backend": self.backend,
            "communication": self.communication,
            "gradient_dtype": self.gradient_dtype,
            "offload": self.offload,
            "offload_ratio": self.ratio,
            "offload_folder": FOLDER if self.offload == "disk" else None,
        }
        for axis in ("tensor", "tensor_sequence", "pipeline", "expert", "sequence"):
            values[axis] = getattr(self, axis)
        if self.pipeline > 1:
            values |= {"pipeline_schedule": self.schedule, "pipeline_chunks": self.chunks}
        if self.sequence > 1:
            values["sequence_attention"] = self.attention
        return Plan(**values)

    def overrides(self) -> str:
        """As it is written on the command line."""
        shown = [f"plan.data={self.data}"]
        for axis in ("tensor", "pipeline", "expert", "sequence"):
            if getattr(self, axis) > 1:
                shown.append(f"plan.{axis}={getattr(self, axis)}")
        if self.tensor_sequence:
            shown.append("plan.tensor_sequence=true")
        if self.pipeline > 1 and self.schedule != "1f1b":
            shown.append(f"plan.pipeline_schedule={self.schedule}")
        if self.chunks > 1:
            shown.append(f"plan.pipeline_chunks={self.chunks}")
        if self.sequence > 1 and self.attention != "heads":
            shown.append(f"plan.sequence_attention={self.attention}")
        shown.append(f"plan.zero={self.zero}")
        if self.communication != "exact":
            shown.append(f"plan.communication={self.communication}")
        if self.gradient_dtype != "fp32":
            shown.append(f"plan.gradient_dtype={self.gradient_dtype}")
        if self.kept != "all":
            shown.append("plan.remat=true" if self.kept == "input" else "(selective recomputation)")
        if self.offload != "none":
            shown.append(f"plan.offload={self.offload}")
        if self.offload == "disk":
            shown.append(f"plan.offload_folder={FOLDER}")
        return " ".join(shown)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"world": self.world}
