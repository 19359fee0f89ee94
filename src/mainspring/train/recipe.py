"""Recipe: one tree of typed sections that is a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mainspring.config import Section
from mainspring.data.config import DataConfig
from mainspring.data.dataset import TokenData
from mainspring.data.pair_corpora import PairCorpora
from mainspring.errors import PlanError
from mainspring.models import ModelConfig
from mainspring.objectives.config import CausalConfig, ObjectiveConfig
from mainspring.optim.build import check_communication
from mainspring.optim.config import OptimConfig
from mainspring.parallel.plan import Plan
from mainspring.parallel.precision import Precision
from mainspring.train.layer_drop import LayerDropConfig
from mainspring.train.narrow.config import NarrowConfig


class TrainConfig(Section):
    """How long, how large, how exact, and what to write down on the way."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_tokens: int = Field(ge=1)
    """Tokens of the global batch; micro-batches and accumulation follow from it, the plan and the memory."""
    precision: Precision = "fp32"
    """Number format of the computation; parameters and optimizer states stay in fp32. "fp16" needs flat
    shards (plan.zero = 1 to 3), whose loss scale leaves out the steps that overflow."""
    seed: int = Field(0, ge=0)
    """Seed of initialisation, order of samples, masking and dropout."""
    init_from: str | None = None
    """Begin with the weights of a run, a checkpoint or an exported model of the same layers; a head of
    another kind is drawn anew. Its tokenizer has to be the data's."""
    checkpoint_every: int = Field(100, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(2, ge=0)
    """Newest checkpoints to keep; 0: all."""
    eval_every: int = Field(0, ge=0)
    """Steps between evaluations on the held-out text; 0: never."""
    eval_tokens: int = Field(65536, ge=0)
    """Most held-out tokens an evaluation reads; 0: all."""
    log_every: int = Field(1, ge=1)
    """Steps between reports of progress."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: end the run, or leave that step out."""
    threads: int = Field(0, ge=0)
    """Compute threads of a rank; 0 shares the machine's cores evenly among its ranks."""
    keep_memory: bool = False
    """On a CPU with glibc: keep memory that a step frees for the next, which then has no page faults. The
    peak may be higher, since what is kept in small pieces does not serve a large block; the plan does not
    count that. Not with plan.offload = "disk", which gives memory back."""
    layer_drop: LayerDropConfig | None = None
    """Leave layers out by chance, more as training goes on (None: never)."""
    tensorboard: bool = False
    """Also write TensorBoard files (needs the extra `tensorboard`)."""
    elastic: bool = False
    """Take as many data ranks as have been started, whatever `plan.data` says, so that a run goes on with
    the nodes that are left after one is lost."""


class Recipe(Section):
    """A run: what is trained, on what, for what, how, over which ranks, for how long."""

    name: str = Field(min_length=1)
    """Name of the run."""
    model: ModelConfig
    """The network."""
    data: DataConfig
    """What it reads."""
    objective: ObjectiveConfig = CausalConfig()
    """What it is trained to do."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and learning-rate schedule."""
    plan: Plan = Plan()
    """Spread over ranks."""
    narrow: NarrowConfig | None = None
    """Training for narrow number formats (None: products see weights as they are)."""
    train: TrainConfig
    """Length, batch, precision and records."""

    @model_validator(mode="after")
    def _memory_goes_one_way(self) -> Self:
        if self.train.keep_memory and self.plan.offload == "disk":
            raise ValueError(
                'train.keep_memory keeps what plan.offload = "disk" gives back to the system, to stay in its '
                "limit; set one of them"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_and_plan_go_together(self) -> Self:
        check_communication(self.optim, self.plan.communication)
        if self.optim.kind == "zero_one_adam" and self.plan.zero:
            raise PlanError(
                f'optim.kind = "zero_one_adam" lets ranks step apart, each with all weights, and plan.zero = '
                f"{self.plan.zero} has each rank update its shard of one model: set plan.zero = 0"
            )
        return self

    def over(self, ranks: int) -> Recipe:
        """The recipe as it runs on so many ranks: itself, or, where it is elastic, with that data degree."""
        others = self.plan.world // self.plan.data
        if not self.train.elastic or self.plan.world == ranks or ranks % others:
            return self
        return self.replace(plan={**self.plan.model_dump(mode="json"), "data": ranks // others})


def identity(recipe: Recipe, data: TokenData) -> dict[str, Any]:
    """What has to stay the same for a run to be the same run: the network, the samples and their order.

    Everything else (plan, precision, learning rate, length) may change where a run is taken up again.
    """
    plain = recipe.model_dump(mode="json")
    return {
        "model": plain["model"],
        "data": {k: v for k, v in plain["data"].items() if k not in ("path", "pairs")},
        "objective": plain["objective"],
        "train.seed": recipe.train.seed,
        "train.batch_tokens": recipe.train.batch_tokens,
        "tokenizer": data.manifest["tokenizer"]["hash"],
        "text": digest(data.manifest["splits"]["train"]),
        "pairs": _pairs(recipe.data.pairs),
    }


def _pairs(folder: str | None) -> dict[str, str]:
    return {} if folder is None else {n: d.digest for n, d in PairCorpora.open(folder).directions.items()}


def digest(values: Mapping[str, Any]) -> str:
    """Hash of plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
