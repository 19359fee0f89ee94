"""Runs out to the Hugging Face layout, and runs made of it."""

from __future__ import annotations

from pathlib import Path

from mainspring.config import parse
from mainspring.data.config import DataConfig
from mainspring.errors import UsageError
from mainspring.models import ModelConfig, resolve
from mainspring.models.hub import export_hf, import_hf
from mainspring.objectives.config import CausalConfig, MaskedConfig
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint import latest, load_model_state, save
from mainspring.train.checkpoint.state import MODEL
from mainspring.train.recipe import Recipe, TrainConfig
from mainspring.train.run import Run


def export_run(path: str | Path, to: str | Path) -> Path:
    """Write a run's newest checkpoint, or one that is named, as transformers loads it.

    Raises:
        UsageError: `path` is no run and no checkpoint of one, or the run has no checkpoint yet.
        WeightsError: the family's published layout cannot express the model.
    """
    run, checkpoint = checkpoint_of(path)
    recipe = run.read_recipe()
    config = resolve(recipe.model, Tokenizer.load(run.tokenizer).vocab_size)
    return export_hf(recipe.model, config, load_model_state(checkpoint), run.tokenizer, to)


def import_run(path: str | Path, to: str | Path, *, data: str) -> Run:
    """Make a run of a model in the Hugging Face layout, with its weights as the checkpoint of step 0.

    Args:
        path: directory of config.json, safetensors and tokenizer.json.
        to: run directory to make.
        data: data directory that the recipe names; nothing is read from it.

    Raises:
        UsageError: `to` is a run already, or the model cannot be read.
    """
    run = Run(Path(to))
    if run.recipe.exists():
        raise UsageError(f"{to} is a run already; give another directory with --to")
    imported = import_hf(path)
    tokenizer = Tokenizer.load(path)
    config = imported.config
    values = config.model_dump(mode="json", exclude_none=True)
    recipe = Recipe(
        name=run.dir.name,
        model=parse(ModelConfig, {"family": imported.family, "config": values}),
        data=DataConfig(path=data, seq_len=min(config.max_positions, 1024)),
        objective=MaskedConfig() if imported.family == "bert" else CausalConfig(),
        train=TrainConfig(steps=1, batch_tokens=min(config.max_positions, 1024)),
    )
    resolve(recipe.model, tokenizer.vocab_size)
    run.dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(run.tokenizer)
    save(run.checkpoints, 0, {MODEL + name: tensor for name, tensor in imported.state.items()}, {})
    run.write_recipe(recipe)
    return run


def checkpoint_of(path: str | Path) -> tuple[Run, Path]:
    """The run and the checkpoint that a path means: a run's newest, or the one named.

    Raises:
        UsageError: it is neither, or there is no checkpoint yet.
    """
    place = Path(path)
    if (place / "recipe.toml").is_file():
        newest = latest(Run(place).checkpoints)
        if newest is None:
            raise UsageError(
                f"{place}: the run has no complete checkpoint yet; train it first: mainspring train {place}"
            )
        return Run(place), newest
    inside = Run(place.resolve().parent.parent)
    if place.is_dir() and inside.recipe.is_file():
        return inside, place
    raise UsageError(
        f"{place}: neither a run (a directory with recipe.toml) nor a checkpoint of one "
        "(RUN/checkpoints/step-...)"
    )
