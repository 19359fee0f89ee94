"""From a recipe to what a rank trains with: data, batch, model, optimizer, and what the planner expects of
them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from mainspring import models, objectives, optim, parallel, planner
from mainspring.config import parse
from mainspring.data.dataset import TokenData
from mainspring.errors import DataError, PlanError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives import Evolves, Objective, Vocabulary
from mainspring.parallel import World
from mainspring.planner import Batch, Estimate, Machine
from mainspring.train.begin import begin_from
from mainspring.train.disk import try_disk
from mainspring.train.events import DiskTried
from mainspring.train.layer_drop import check_layer_drop
from mainspring.train.recipe import Recipe
from mainspring.train.source import Weights, read_weights
from mainspring.train.teacher import objective_of

_COMPARE_TOKENS = ("xlco", "unicoder", "distill")


@dataclass(frozen=True)
class Setup:
    """All parts of a run, on one rank."""

    recipe: Recipe
    data: TokenData
    config: TransformerConfig
    objective: Objective
    batch: Batch
    model: nn.Module
    optimizer: Optimizer
    machine: Machine
    estimate: Estimate
    drawn: tuple[str, ...] = ()
    """Parameters of a head that `train.init_from` did not have."""

    @property
    def peak_flops(self) -> float:
        """Measured peak of all ranks together, per second."""
        return self.machine.flops(self.recipe.train.precision) * self.recipe.plan.world

    def expected(self) -> dict[str, Any]:
        """The planner's figures as plain values, for `plan.json`."""
        return {
            "plan": self.recipe.plan.model_dump(mode="json"),
            "batch": self.batch.model_dump(mode="json"),
            "estimate": self.estimate.model_dump(mode="json"),
            "machine": self.machine.model_dump(mode="json"),
        }


def prepare(
    recipe: Recipe,
    world: World,
    *,
    machine: Machine | None = None,
    micro_rows: int = 0,
    resumes: bool = False,
    planned: Callable[[Estimate], None] = lambda estimate: None,
    tried: Callable[[DiskTried], None] = lambda event: None,
) -> Setup:
    """Build everything; every rank calls it.

    Args:
        recipe: the run, with its plan for this world.
        world: the ranks.
        machine: what it can do (None: rank 0 measures it, in about a second).
        micro_rows: cut the batch into micro-batches of so many rows, as before an interruption, where that is
            possible (0: what fits best). The same cut gives the same sums to the last bit.
        resumes: a checkpoint is loaded next, so nothing is read from `train.init_from`.
        planned: is told what the run will take, before anything of the model is allocated.
        tried: is told, next, what the folder of the disk tier gives, where the plan has one.

    Raises:
        UsageError: the recipe cannot be carried out: data, batch, plan or memory do not fit.
        DiskError: the folder of the disk tier has too little room, or is of no use.
    """
    if recipe.plan.sequence > 1 and recipe.objective.kind in _COMPARE_TOKENS:
        raise PlanError(
            f"objective.kind = {recipe.objective.kind!r} compares rows, or tokens of a row, with one "
            f"another, and plan.sequence = {recipe.plan.sequence} cuts rows; set plan.sequence = 1"
        )
    data = TokenData.open(recipe.data.path)
    config = models.resolve(recipe.model, data.vocab_size)
    vocabulary = Vocabulary.of_tokenizer(data.tokenizer)
    objective = objective_of(recipe.objective, vocabulary, data.tokenizer)
    _check_network(recipe, config, objective)
    machine = machine or _measure(recipe, world)
    batch, estimate = planner.prepare(
        config,
        recipe.plan,
        batch_tokens=recipe.train.batch_tokens,
        seq_len=recipe.data.seq_len,
        precision=recipe.train.precision,
        machine=machine,
        predicted=recipe.objective,
        objective=objective,
        local_ranks=world.local_size,
    )
    if micro_rows and batch.rows_per_rank % micro_rows == 0:
        batch = batch.replace(micro_rows=micro_rows, accumulation=batch.rows_per_rank // micro_rows)
    planned(estimate)
    if recipe.plan.offload == "disk":
        tried(try_disk(recipe.plan, recipe.train.precision, world, estimate))
    weights = None if resumes else _weights(recipe, data)
    model, drawn = _model(recipe, config, objective, world, weights)
    optimizer = optim.build(
        model, recipe.optim, join=parallel.piece_sum(model), replicas=parallel.replicas(model)
    )
    return Setup(recipe, data, config, objective, batch, model, optimizer, machine, estimate, drawn)


def _check_network(recipe: Recipe, config: TransformerConfig, objective: Objective) -> None:
    """Refuse a pipeline, and dropped layers, for what has none."""
    if recipe.plan.pipeline == 1 and recipe.train.layer_drop is None:
        return
    with torch.device("meta"):
        trained = type(objectives.assemble(objective, Transformer(config)))
    if recipe.train.layer_drop is not None:
        check_layer_drop(config, trained, recipe.plan, recipe.narrow)
    if recipe.plan.pipeline > 1 and trained is not Transformer:
        raise PlanError(
            f"plan.pipeline = {recipe.plan.pipeline}: objective.kind = {recipe.objective.kind!r} trains a "
            f"{trained.__name__}, networks whose passes need one another's results, and a pipeline takes one "
            "pass of one network at a time; set plan.pipeline = 1 and use data, zero or tensor"
        )


def _weights(recipe: Recipe, data: TokenData) -> Weights | None:
    if recipe.train.init_from is None:
        return None
    weights = read_weights(recipe.train.init_from)
    if weights.tokenizer_hash not in (None, data.tokenizer.hash):
        raise DataError(
            f"train.init_from = {recipe.train.init_from!r} has another tokenizer than data.path = "
            f"{recipe.data.path!r}: build the data with --tokenizer and the tokenizer.json there"
        )
    return weights


def _measure(recipe: Recipe, world: World) -> Machine:
    """Rank 0 measures, imitating the others, and tells them, so that all plan alike."""
    told: list[Any] = [None]
    if world.is_main:
        machine = Machine.measure(recipe.train.threads, ranks=world.local_size, device=world.device.type)
        told = [machine.model_dump(mode="json")]
    if dist.is_initialized():
        dist.broadcast_object_list(told, src=0)
    return parse(Machine, told[0])


def _model(
    recipe: Recipe, config: TransformerConfig, objective: Objective, world: World, weights: Weights | None
) -> tuple[nn.Module, tuple[str, ...]]:
    with torch.device("meta"):
        model = objectives.assemble(objective, Transformer(config))
    parallel.apply(model, recipe.plan, precision=recipe.train.precision, reduce="sum")
    drawn: tuple[str, ...] = ()

    def begin(module: nn.Module) -> None:
        nonlocal drawn
        initialize(module, recipe.train.seed)
        if weights is not None:
            drawn = begin_from(module, config, weights)
        if isinstance(objective, Evolves):
            objective.start(module)

    parallel.materialize(model, world.device, begin)
    return model, drawn
