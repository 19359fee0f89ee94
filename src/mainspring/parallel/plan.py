"""Plan: how a run is spread over ranks, as a value that can be compared, stored and costed before it is
executed."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mainspring.config import Section


class Plan(Section):
    """Spread of a run over `world` ranks.

    ZeRO stages follow Rajbhandari et al. 2020 (arXiv 1910.02054): 1 shards optimizer states, 2 also
    gradients, 3 also parameters.
    """

    data: int = Field(1, ge=1)
    """Ranks that each take a share of every batch."""
    tensor: int = Field(1, ge=1)
    """Ranks between which every layer's matrices are cut (Shoeybi et al. 2019, arXiv 1909.08053)."""
    tensor_sequence: bool = False
    """Cut also what lies between those matrices, over tokens (Korthikanti et al. 2022, arXiv 2205.05198)."""
    sequence: int = Field(1, ge=1)
    """Ranks that each take a share of every row's tokens."""
    sequence_attention: Literal["heads", "ring"] = "heads"
    """How tokens of one rank see those of another: with "heads" each rank attends with some heads for all
    tokens (Jacobs et al. 2023, arXiv 2309.14509); with "ring" keys and values go round (Liu et al. 2023,
    arXiv 2310.01889)."""
    pipeline: int = Field(1, ge=1)
    """Ranks that each hold some of the layers, one after another."""
    pipeline_schedule: Literal["gpipe", "1f1b", "interleaved", "zero_bubble"] = "1f1b"
    """In which order a rank of a pipeline goes forward and backward."""
    pipeline_chunks: int = Field(1, ge=1)
    """Separate runs of layers that a rank of a pipeline holds: one with gpipe and 1f1b, several with
    interleaved, either with zero_bubble."""
    pipeline_blocks: tuple[PositiveInt, ...] | None = None
    """Layers of each stage, in the order of computation (pipeline * pipeline_chunks numbers; stage s is on
    rank s mod pipeline); null shares them out so that the costliest stage costs least."""
    expert: int = Field(1, ge=1)
    """Data ranks between which the experts of a layer are spread."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage: what the data ranks shard between them instead of replicating."""
    backend: Literal["flat", "fsdp2"] = "flat"
    """What carries out ZeRO 1 to 3: our flat shards, or PyTorch's `fully_shard`."""
    communication: Literal["exact", "compressed", "adasum"] = "exact"
    """How data ranks join what they computed: gradients as they are; with "compressed" by an optimizer that
    sends signs (`optim.kind` one of "onebit_adam", "onebit_lamb", "zero_one_adam"); with "adasum" each
    rank's own step, by Adasum (arXiv 2006.02924)."""
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    """In what gradients travel at ZeRO 0; they are kept in fp32. Shards (ZeRO 1 to 3) reduce them in the
    dtype of computation."""
    offload: Literal["none", "host", "disk"] = "none"
    """Where what is sharded is kept between uses: beside the computation; on the host, which also makes the
    update (masters, optimizer states, gradients); or in files of `offload_folder` (masters and optimizer
    states; at stage 3 also parameters; gradients stay in memory)."""
    offload_ratio: float = Field(1.0, gt=0, le=1)
    """With offload = "host": least part of all elements that goes there, whole units at a time."""
    offload_delay: int | None = Field(None, ge=0)
    """With offload = "host": number of plain steps after which each update runs beside the next step's
    computation, which then uses parameters that are one update old; null never."""
    offload_folder: str | None = None
    """Folder on a fast local disk for offload = "disk"; each rank makes a folder of its own in it."""
    remat: bool = False
    """Keep only the inputs of each block for backward and compute the rest again."""
    debug_collectives: bool = False
    """Compare name, kind, dtype and size of every collective between its ranks before it moves anything: the
    first difference is an error on all of them. Every collective then waits for all ranks."""
    collective_timeout: float | None = Field(None, gt=0)
    """Seconds that a collective may take before the error that names the late rank and its last operation;
    null leaves it to the process group."""

    @model_validator(mode="after")
    def _axes_go_together(self) -> Self:
        if self.data % self.expert:
            nearest = max(n for n in range(1, self.expert) if self.data % n == 0)
            raise ValueError(
                f"experts are spread over ranks of the data axis: expert = {self.expert} has to divide data "
                f"= {self.data}; the nearest below is expert = {nearest}"
            )
        if self.tensor_sequence and self.tensor == 1:
            raise ValueError("tensor_sequence goes with tensor > 1; it is 1")
        if self.backend == "fsdp2" and (self.world > self.data * self.sequence or self.expert > 1):
            raise ValueError(
                'backend = "fsdp2" shards over data and sequence ranks alone; use backend = "flat"'
            )
        return self

    @model_validator(mode="after")
    def _pipeline_can_be_run(self) -> Self:
        schedule, chunks, blocks = self.pipeline_schedule, self.pipeline_chunks, self.pipeline_blocks
        if (schedule in ("gpipe", "1f1b") and chunks > 1) or (schedule == "interleaved" and chunks == 1):
            raise ValueError(
                f'pipeline_schedule = "{schedule}", pipeline_chunks = {chunks}: gpipe and 1f1b have 1 chunk '
                "a rank, interleaved has at least 2; zero_bubble takes any"
            )
        if blocks is not None and len(blocks) != self.pipeline * chunks:
            raise ValueError(
                f"pipeline_blocks has {len(blocks)} numbers and the plan {self.pipeline * chunks} stages "
                f"(pipeline = {self.pipeline}, pipeline_chunks = {chunks}); give one for each"
            )
        if self.pipeline == 1:
            return self
        split = schedule == "zero_bubble"
        if split and self.zero > 1:
            raise ValueError(
                f"zero = {self.zero} reduces gradients after each backward, and zero_bubble puts half of it "
                "off; set zero = 1, or use 1f1b"
            )
        if self.zero == 3 and chunks > 1:
            raise ValueError(
                f"zero = 3 gathers all of a rank's layers for each of its {chunks} chunks, {chunks} times "
                'what it gathers for one; set zero to 1 or 2, or pipeline_schedule = "1f1b"'
            )
        if split and self.remat:
            raise ValueError(
                "remat computes a block again each time backward enters it, and zero_bubble enters it once "
                'for every matrix; use pipeline_schedule = "1f1b"'
            )
        return self

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> Self:
        if self.offload != "none" and (self.zero == 0 or self.backend != "flat"):
            remedy = "zero = 3 (legal on one rank, too)" if self.zero == 0 else 'backend = "flat"'
            raise ValueError(
                f'offload = "{self.offload}" moves the shards of ZeRO 1 to 3 on flat shards and the plan has '
                f'zero = {self.zero}, backend = "{self.backend}"; set {remedy}'
            )
        if self.offload != "host" and (self.offload_ratio != 1 or self.offload_delay is not None):
            raise ValueError(
                f'offload_ratio and offload_delay belong to offload = "host"; it is "{self.offload}"'
            )
        if self.offload_delay is not None and self.offload_ratio != 1:
            raise ValueError(
                f"offload_delay needs offload_ratio = 1 and it is {self.offload_ratio}: what stays on the "
                "device is updated in the step itself"
            )
        if (self.offload == "disk") != (self.offload_folder is not None):
            raise ValueError(
                'offload = "disk" and offload_folder go together: name a folder on a fast local disk'
            )
        return self

    @model_validator(mode="after")
    def _communication_can_be_had(self) -> Self:
        how = self.communication
        if self.gradient_dtype != "fp32" and (self.zero or how == "adasum"):
            other = f"zero = {self.zero}" if self.zero else f'communication = "{how}"'
            raise ValueError(
                f'gradient_dtype = "{self.gradient_dtype}" is for gradients that are all-reduced, and with '
                f'{other} none are; set gradient_dtype = "fp32" (shards reduce in the dtype of computation: '
                'precision = "bf16")'
            )
        if how == "exact":
            return self
        said = f'communication = "{how}"'
        if self.zero > (how == "compressed"):
            shards = "keeps a part of it" if self.zero > 1 else "steps a part of the weights"
            raise ValueError(
                f"{said} needs each rank's own gradient, whole, and zero = {self.zero} {shards}; "
                f"set zero = {'0 or 1' if how == 'compressed' else '0'}"
            )
        if self.backend != "flat":
            raise ValueError(f'{said}: fully_shard always joins gradients; set backend = "flat"')
        if self.offload != "none":
            raise ValueError(
                f"{said} needs all momenta beside the computation, and offload = "
                f'"{self.offload}" keeps them elsewhere; set offload = "none"'
            )
        if self.expert > 1:
            raise ValueError(
                f"{said}: experts are joined over other ranks than the rest ({self.data // self.expert} and "
                f"{self.data}), and one message serves all parameters; set expert = 1"
            )
        if self.pipeline > 1:
            raise ValueError(
                f"{said}: the first and the last stage exchange gradients of what they share after these are "
                "joined, and here they are not; set pipeline = 1"
            )
        if how == "adasum" and (self.tensor > 1 or self.sequence > 1):
            raise ValueError(
                f"{said} compares whole gradients of whole rows; with tensor = {self.tensor}, "
                f"sequence = {self.sequence} a rank has a part of a layer or of a row; set both to 1"
            )
        return self

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.data * self.tensor * self.sequence * self.pipeline

    @property
    def spread(self) -> str:
        """The ranks in words: "8 ranks (data=4, tensor=2)"."""
        axes = {axis: getattr(self, axis) for axis in ("data", "tensor", "sequence", "pipeline", "expert")}
        named = [f"{axis}={size}" for axis, size in axes.items() if size > 1 or axis == "data"]
        return f"{self.world} {'rank' if self.world == 1 else 'ranks'} ({', '.join(named)})"
