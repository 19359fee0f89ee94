"""What a recipe will take, before anything is allocated: batch, bytes, FLOPs, seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.data.dataset import TokenData
from mainspring.data.shards import read_manifest
from mainspring.errors import DataError
from mainspring.models import FAMILIES, resolve
from mainspring.nn.config import TransformerConfig
from mainspring.objectives import Objective, Vocabulary
from mainspring.parallel.world import usable_cores
from mainspring.planner import Machine, Prepared, prepare
from mainspring.planner.memory import available_memory
from mainspring.planner.units import duration
from mainspring.train import teacher
from mainspring.train.feed import rows_of_run
from mainspring.train.recipe import Recipe
from mainspring.train.source import check_source

_DEFAULT_VOCABULARY = 50257


@dataclass(frozen=True)
class Forecast:
    """A recipe's cost on a machine."""

    recipe: Recipe
    config: TransformerConfig
    prepared: Prepared
    machine: Machine
    vocabulary_from: str
    """Where the size of the vocabulary was taken from."""

    @property
    def seconds(self) -> float:
        """Expected time of all steps."""
        return self.prepared.estimate.seconds_per_step * self.recipe.train.steps

    def rows(self) -> list[tuple[str, str]]:
        """Rows (what, how much) to show a person."""
        batch, train = self.prepared.batch, self.recipe.train
        return [
            *self.prepared.estimate.table(),
            (
                "batch",
                f"{batch.rows} rows of {self.recipe.data.seq_len}; a rank takes {batch.rows_per_rank}, "
                f"{batch.micro_rows} at once",
            ),
            (f"all {train.steps:,} steps", duration(self.seconds)),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        estimate = self.prepared.estimate
        return {
            "recipe": self.recipe.name,
            "vocabulary_from": self.vocabulary_from,
            "plan": self.recipe.plan.model_dump(mode="json"),
            "batch": self.prepared.batch.model_dump(mode="json"),
            "estimate": {
                **estimate.model_dump(mode="json"),
                "fits": estimate.fits,
                "tokens_per_second": estimate.tokens_per_second,
            },
            "seconds": self.seconds,
            "steps": self.recipe.train.steps,
            "machine": self.machine.model_dump(mode="json"),
        }


def forecast(recipe: Recipe, machine: Machine | None = None, *, local_ranks: int | None = None) -> Forecast:
    """Work out what a recipe takes; nothing of the model is allocated.

    Args:
        recipe: its data directory tells the vocabulary where it exists, else the preset does.
        machine: rates and memory; None measures this one, with as many ranks at work as it has room for.
        local_ranks: ranks that share this machine's memory; None: all of them.

    Raises:
        ConfigError: the batch cannot be cut evenly.
        PlanError: it does not fit in memory.
    """
    vocab_size, source = vocabulary(recipe)
    config = resolve(recipe.model, vocab_size)
    if machine is None:
        machine = Machine.measure(
            recipe.train.threads, ranks=min(local_ranks or recipe.plan.world, usable_cores())
        )
    prepared = prepare(
        config,
        recipe.plan,
        batch_tokens=recipe.train.batch_tokens,
        seq_len=recipe.data.seq_len,
        precision=recipe.train.precision,
        machine=machine,
        local_ranks=local_ranks,
        predicted=recipe.objective,
        objective=objective_of(recipe, config),
    )
    return Forecast(recipe, config, prepared, machine, source)


def check(recipe: Recipe) -> None:
    """Find what is wrong with a run before any process is started: data, model, objective, batch, memory.

    Raises:
        UsageError: the message names the field, the numbers and the nearest legal choice.
    """
    data = TokenData.open(recipe.data.path)
    teacher.objective_of(recipe.objective, Vocabulary.of_tokenizer(data.tokenizer), data.tokenizer)
    resolve(recipe.model, data.vocab_size)
    rows_of_run(recipe, data)
    if recipe.train.init_from is not None:
        check_source(recipe.train.init_from)
    here = Machine(  # no rate matters here, and measuring takes time
        flops_fp32=1.0,
        flops_bf16=1.0,
        memory_bandwidth=1.0,
        link_bandwidth=1.0,
        memory=available_memory(),
        cores=usable_cores(),
        threads=1,
        ranks=recipe.plan.world,
    )
    forecast(recipe, here)


def objective_of(recipe: Recipe, config: TransformerConfig) -> Objective:
    """The recipe's objective for counting: where there is no data yet, over made-up special tokens."""
    tokenizer = None
    try:
        tokenizer = TokenData.open(recipe.data.path).tokenizer
        tokens = Vocabulary.of_tokenizer(tokenizer)
    except DataError:
        plain = np.zeros(config.vocab_size, bool)
        tokens = Vocabulary(plain, plain, plain, mask=0, first=0, separator=0)
    return teacher.objective_of(recipe.objective, tokens, tokenizer)


def vocabulary(recipe: Recipe) -> tuple[int, str]:
    """Size of the vocabulary, and where it was taken from: the data, the recipe, the preset."""
    try:
        return int(
            read_manifest(Path(recipe.data.path))["tokenizer"]["vocab_size"]
        ), f"the data at {recipe.data.path}"
    except DataError:
        pass
    if "vocab_size" in recipe.model.config:
        return int(recipe.model.config["vocab_size"]), "model.config.vocab_size"
    if recipe.model.preset is not None:
        return FAMILIES[recipe.model.family].presets[recipe.model.preset].vocab_size, (
            f"the preset, because there is no data at {recipe.data.path} yet"
        )
    return _DEFAULT_VOCABULARY, "GPT-2, because neither data nor recipe tell"
