"""Runs out to other programs' layouts, and runs made of models in them."""

from __future__ import annotations

from pathlib import Path

from mainspring.config import parse
from mainspring.data.config import DataConfig
from mainspring.errors import UsageError
from mainspring.infer.written import keep, kept, published, written_by
from mainspring.models import FAMILIES, ModelConfig, resolve
from mainspring.models.exchange import Layout, export_model, import_model
from mainspring.models.megatron import Version
from mainspring.models.remote import fetch, hub_id
from mainspring.objectives import Vocabulary, network_state
from mainspring.objectives import build as build_objective
from mainspring.objectives.config import CausalConfig, MaskedConfig, ObjectiveConfig
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint import load_model_state, save
from mainspring.train.checkpoint.state import MODEL
from mainspring.train.recipe import Recipe, TrainConfig
from mainspring.train.run import Run
from mainspring.train.source import checkpoint_of


def export_run(
    path: str | Path, to: str | Path, layout: Layout = "hf", *, ranks: int = 1, version: Version = "2.0"
) -> Path:
    """Write a run's newest checkpoint, or one that is named, in a layout.

    Args:
        path: run directory, or a checkpoint in one.
        to: folder to write.
        layout: as `models.exchange` names them.
        ranks: degree of tensor parallelism (megatron).
        version: layout of query_key_value (megatron).

    Raises:
        UsageError: `path` is no run and no checkpoint of one, or the run has no checkpoint yet.
        WeightsError: the layout cannot express the model.
        ConfigError: the model does not divide by `ranks`.
    """
    run, checkpoint = checkpoint_of(path)
    recipe = run.read_recipe()
    tokenizer = Tokenizer.load(run.tokenizer)
    config = resolve(recipe.model, tokenizer.vocab_size)
    objective = build_objective(recipe.objective, Vocabulary.of_tokenizer(tokenizer))
    state = network_state(objective, load_model_state(checkpoint))
    written = written_by(recipe, config, run.dir)
    out = export_model(layout, recipe.model, config, state, run.tokenizer, to, ranks=ranks, version=version)
    keep(out, written)
    return out


def import_run(path: str | Path, to: str | Path, *, data: str, family: str | None = None) -> Run:
    """Make a run of a model in any layout that is written, with its weights as the checkpoint of step 0.

    Training it goes on from them, with whatever data of that tokenizer, objective and settings.

    Args:
        path: directory of the model, with its tokenizer.json; or, where there is none of that name, a model's
            name on the Hugging Face hub (owner/name, or owner/name@revision), which is fetched.
        to: run directory to make.
        data: data directory that the recipe names; nothing is read from it.
        family: name of the family, where several share a layout.

    Raises:
        UsageError: `to` is a run already, or the model cannot be fetched or read.
    """
    run = Run(Path(to))
    if run.recipe.exists():
        raise UsageError(f"{to} is a run already; give another directory with --to")
    if hub_id(path):
        path = fetch(str(path))
    imported = import_model(path, family=family)
    learnt = kept(Path(path)) or published(imported.family)
    tokenizer = Tokenizer.load(path)
    config = imported.config
    values = {**config.model_dump(mode="json", exclude_none=True), "vocab_rows": config.rows}
    recipe = Recipe(
        name=run.dir.name,
        model=parse(ModelConfig, {"family": imported.family, "config": values}),
        data=DataConfig(path=data, seq_len=min(config.max_positions, 1024)),
        objective=learnt.objective if learnt and learnt.writes else _usual(imported.family),
        train=TrainConfig(steps=1, batch_tokens=min(config.max_positions, 1024)),
    )
    resolve(recipe.model, tokenizer.vocab_size)
    run.dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(run.tokenizer)
    state = {MODEL + name: tensor for name, tensor in imported.state.items()}
    save(run.checkpoints, 0, state, {"imported": True, "identity": {"tokenizer": tokenizer.hash}})
    if learnt is not None:
        keep(run.dir, learnt)
    run.write_recipe(recipe)
    return run


def _usual(family: str) -> ObjectiveConfig:
    return CausalConfig() if FAMILIES[family].causal else MaskedConfig()
