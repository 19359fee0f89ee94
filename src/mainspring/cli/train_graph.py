"""`mainspring train --model graph.onnx`: train a graph from any framework and write it back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mainspring.cli.console import err, out
from mainspring.cli.errors import SIGNALLED
from mainspring.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from mainspring.train.graph import GraphRecipe
    from mainspring.train.run import Run


def train_graph(
    recipe: str | None,
    overrides: Sequence[str],
    model: Path | None,
    *,
    to: Path | None,
    nproc: int | None,
    resume: bool,
    fresh: bool,
    quiet: bool,
) -> None:
    """Carry out a recipe that trains a graph, on as many processes as its plan asks for.

    Args:
        recipe: a TOML file or a run directory; None where the settings say everything.
        overrides: settings, `train.steps=100`.
        model: the ONNX file; None where the recipe names it.
        to: run directory.
        nproc: data ranks to start.
        resume: go on although settings differ.
        fresh: begin anew.
        quiet: show no progress.
    """
    from mainspring.train.run import Run

    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other: go on with the run, or begin anew")
    asked = read_recipe(recipe, overrides, model, nproc)
    named = Path(recipe) if recipe is not None else None
    own = named if named is not None and (named / "recipe.toml").is_file() else Path("runs") / asked.name
    run = Run(to or own)
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _as_rank(asked, run, quiet)
        return
    if fresh:
        from mainspring.cli.train import clear

        clear(run)
    elif not resume:
        _refuse_other(asked, run)
    if asked.plan.world == 1:
        _as_rank(asked, run, quiet)
        return
    from mainspring.config import to_toml
    from mainspring.train.files import replace_file
    from mainspring.train.launch import launch

    run.dir.mkdir(parents=True, exist_ok=True)
    replace_file(run.recipe, to_toml(asked).encode())
    code = launch(run.recipe, run.dir, asked.plan.world, options=["--quiet"] if quiet else [])
    if code:
        raise typer.Exit(code)


def read_recipe(
    recipe: str | None, overrides: Sequence[str], model: Path | None, nproc: int | None
) -> GraphRecipe:
    """The recipe that a file and settings make together.

    Raises:
        ConfigError: there is no such file, or a setting does not fit.
    """
    from mainspring.config import apply_overrides, parse, read_toml
    from mainspring.train.graph import GraphRecipe

    values: dict[str, Any] = {}
    if recipe is not None:
        file = Path(recipe)
        values = read_toml(file / "recipe.toml" if file.is_dir() else file)
    if model is not None:
        values.setdefault("name", model.stem)
        values["graph"] = {**values.get("graph", {}), "path": str(model)}
    values = apply_overrides(values, [*overrides, *([f"plan.data={nproc}"] if nproc else [])])
    data = values.get("data")
    if isinstance(data, dict):
        data.setdefault("kind", "arrays")
    asked = parse(GraphRecipe, values, source=recipe or "")
    if not Path(asked.graph.path).is_file():
        raise ConfigError(f"graph.path = {asked.graph.path!r}: there is no such file")
    return asked


def _as_rank(recipe: GraphRecipe, run: Run, quiet: bool) -> None:
    from mainspring.cli.progress import ProgressSink
    from mainspring.parallel.world import World
    from mainspring.train.graph import GraphTrainer

    with World.start(recipe.plan, threads=recipe.train.threads) as world:
        if world.is_main and not quiet:
            with ProgressSink() as sink:
                trainer = GraphTrainer(recipe, run.dir, world, [sink])
                result = trainer.fit()
        else:
            trainer = GraphTrainer(recipe, run.dir, world)
            result = trainer.fit()
        if world.is_main:
            if result.status == "interrupted":
                err().print(f"saved; the same command goes on after step {result.step}", markup=False)
            out().print(str(trainer.trained), markup=False)
    if result.signal is not None:
        raise typer.Exit(SIGNALLED + result.signal)


def _refuse_other(recipe: GraphRecipe, run: Run) -> None:
    """Refuse a run directory whose recipe is another one, naming what differs.

    Raises:
        UsageError: it is.
    """
    from mainspring.config import load_toml
    from mainspring.recipes.differences import differences
    from mainspring.train.checkpoint import latest
    from mainspring.train.graph import GraphRecipe, is_graph_recipe

    if not run.recipe.is_file() or latest(run.checkpoints) is None:
        return  # nothing to lose yet
    if not is_graph_recipe(run.recipe):
        raise UsageError(f"{run.dir} holds a run of another kind; choose another --out")
    found = differences(load_toml(GraphRecipe, run.recipe), recipe)
    if found:
        lines = "".join(f"\n  {field}: the run has {old}, you ask for {new}" for field, old, new in found)
        raise UsageError(
            f"{run.dir} holds a run of another recipe:{lines}\n"
            "Choose another --out, go on with the run under the new settings with --resume, or begin anew "
            "with --fresh"
        )
