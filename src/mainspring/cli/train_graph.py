"""`mainspring train --model graph.onnx`: train a graph from any framework and write it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mainspring.cli.carrying import Kind, carry_out
from mainspring.cli.console import out
from mainspring.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from mainspring.parallel import Plan, World
    from mainspring.train.events import Sink
    from mainspring.train.graph import GraphRecipe, GraphTrainer
    from mainspring.train.run import Run
    from mainspring.train.trainer import Result


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

    asked = read_recipe(recipe, overrides, model, nproc)
    named = Path(recipe) if recipe is not None else None
    own = named if named is not None and (named / "recipe.toml").is_file() else Path("runs") / asked.name
    run = Run(to or own)
    carry_out(asked, run, Graphs(), resume=resume, fresh=fresh, quiet=quiet)


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


class Graphs(Kind["GraphRecipe", "GraphTrainer"]):
    """Runs that train a graph."""

    def plan(self, asked: GraphRecipe) -> Plan:
        """See `Kind.plan`."""
        return asked.plan

    def threads(self, asked: GraphRecipe) -> int:
        """See `Kind.threads`."""
        return asked.train.threads

    def read(self, run: Run) -> GraphRecipe:
        """See `Kind.read`."""
        from mainspring.config import load_toml
        from mainspring.train.graph import GraphRecipe, is_graph_recipe

        if not is_graph_recipe(run.recipe):
            raise UsageError(f"{run.dir} holds a run of another kind; choose another --out")
        return load_toml(GraphRecipe, run.recipe)

    def trainer(self, asked: GraphRecipe, run: Run, world: World, sinks: Sequence[Sink]) -> GraphTrainer:
        """See `Kind.trainer`."""
        from mainspring.train.graph import GraphTrainer

        return GraphTrainer(asked, run.dir, world, sinks)

    def close(self, trainer: GraphTrainer, result: Result, run: Run, world: World) -> None:
        """Say where the graph is."""
        if world.is_main:
            out().print(str(trainer.trained), markup=False)
