"""What a run tells: frozen events, handed to sinks. Nothing in training prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Status = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Event:
    """Something that happened after `step` optimizer steps."""

    step: int


@dataclass(frozen=True)
class Planned(Event):
    """What the run will take, told before anything of the model is allocated."""

    bytes_by_kind: dict[str, int]
    """Of the fullest rank."""
    bytes_per_rank: int
    memory_per_rank: int
    """What there is for it."""
    seconds_per_step: float
    """Expected."""


@dataclass(frozen=True)
class DiskTried(Event):
    """The folder of the disk tier was written to and read from, before anything of the model is allocated."""

    folder: str
    needed_bytes: int
    """What the states of all ranks of a machine will take."""
    free_bytes: int
    read_rate: float
    """Bytes a second, checksums included."""
    write_rate: float
    direct: bool
    """Whether the file system has direct I/O."""
    read_per_step: int
    """Bytes, of all ranks of a machine."""
    written_per_step: int
    seconds_per_step: float
    """Expected with these rates."""


@dataclass(frozen=True)
class RunStarted(Event):
    """The model is built, the checkpoint (if any) is loaded, the first step is next."""

    name: str
    steps: int
    """Steps of the whole run."""
    resumed: bool
    """Whether a checkpoint was found."""
    world: int
    device: str
    precision: str
    parameters: int
    rows: int
    """Rows of the global batch."""
    tokens: int
    """Tokens of the global batch."""
    micro_rows: int
    """Rows that a rank computes at once."""
    accumulation: int
    """Micro-batches of a rank in a step."""
    flops_per_token: float
    """Of forward and backward."""
    peak_flops: float
    """Measured peak of all ranks together, per second."""
    unit: str = "tokens"
    """What `tokens` counts: "rows", where what is read has no tokens."""


@dataclass(frozen=True)
class FirstStep(Event):
    """The first step since the run was started or taken up again is done."""

    seconds: float
    """Since the process was started: imports, data, model, checkpoint and the step itself."""
    start_memory_bytes: int
    """Peak memory of this process, or of its accelerator, before the step began."""


@dataclass(frozen=True)
class StepDone(Event):
    """An optimizer step; `step` counts it."""

    loss: float
    """Weighted sum of the mean losses over the global batch, in nats."""
    tokens: int
    """Tokens of the step, over all ranks."""
    seconds: float
    """Since the end of the step before."""
    tokens_per_second: float
    mfu: float
    """Share of the machine's measured peak that the model's FLOPs make."""
    lr: float
    grad_norm: float
    """Global norm before clipping."""
    eta_seconds: float
    """Expected until the last step."""
    memory_bytes: int
    """Peak resident memory of this process, or peak allocated memory of its accelerator."""
    losses: dict[str, float]
    """Mean of each loss by name."""


@dataclass(frozen=True)
class StepSkipped(Event):
    """A step whose loss or gradient was not finite was left out, as the recipe asks."""

    reason: str
    skipped: int
    """Steps left out so far."""


@dataclass(frozen=True)
class Narrowed(Event):
    """What products see of the weights has changed."""

    bits: dict[str, int]
    """Of each layer's weights; 0 where a format says it."""


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint of `step` is complete and verified."""

    path: str


@dataclass(frozen=True)
class Evaluated(Event):
    """The held-out text was scored."""

    loss: float
    """Mean loss in nats per predicted token."""
    perplexity: float
    bits_per_byte: float | None
    """None where the objective does not score text from left to right."""
    tokens: int
    """Tokens scored."""
    bytes: int
    """UTF-8 bytes they stand for."""
    seconds: float


@dataclass(frozen=True)
class Warned(Event):
    """Something a person should know, which does not end the run."""

    message: str


@dataclass(frozen=True)
class RunEnded(Event):
    """The run is over, for now or for good."""

    status: Status
    loss: float | None
    """Of the last step."""
    seconds: float
    """Since the run was started or taken up again."""
    message: str = ""


Sink = Callable[[Event], None]
"""Takes every event, on rank 0, in order."""
