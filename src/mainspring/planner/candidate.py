"""A way to spread a run, as the search sees it: more axes than `parallel.apply` carries out today."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from mainspring.parallel.mesh import UNBUILT
from mainspring.parallel.plan import Plan
from mainspring.planner.published import Kept

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
    """Ranks that share every layer's products, and between them the sequence (Korthikanti et al. 2022)."""
    pipeline: int = 1
    """Stages that each hold some of the layers (one forward, one backward, with a flush)."""
    expert: int = 1
    """Data ranks among which the experts are spread."""
    sequence: int = 1
    """Ranks that share the tokens of a row, and change to heads for attention (Ulysses)."""
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
            pipeline=plan.pipeline,
            expert=plan.expert,
            sequence=plan.sequence,
            zero=plan.zero if plan.world > 1 or plan.offload != "none" else 0,
            kept="input" if plan.remat else "all",
            offload=plan.offload,
            ratio=plan.offload_ratio,
            micro_rows=micro_rows,
            accumulation=accumulation,
            backend=plan.backend,
        )

    def missing(self) -> list[str]:
        """What of it `parallel.apply` cannot carry out yet; empty for a plan that runs."""
        axes = [f"{axis}={getattr(self, axis)}" for axis in UNBUILT if getattr(self, axis) > 1]
        if self.kept == "selective":
            axes.append("selective recomputation")
        return axes

    def plan(self) -> Plan | None:
        """The plan that says the same; None where `parallel.apply` cannot carry it out yet."""
        if self.missing():
            return None
        values: dict[str, Any] = {
            "data": self.data,
            "zero": self.zero,
            "remat": self.remat,
            "backend": self.backend,
            "offload": self.offload,
            "offload_ratio": self.ratio,
            "offload_folder": FOLDER if self.offload == "disk" else None,
        }
        for axis in ("tensor", "pipeline", "expert", "sequence"):
            values[axis] = getattr(self, axis)
        return Plan(**values)

    def overrides(self) -> str:
        """As it is written on the command line."""
        shown = [f"plan.data={self.data}"]
        for axis in ("tensor", "pipeline", "expert", "sequence"):
            if getattr(self, axis) > 1:
                shown.append(f"plan.{axis}={getattr(self, axis)}")
        shown.append(f"plan.zero={self.zero}")
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
