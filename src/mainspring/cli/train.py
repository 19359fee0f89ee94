"""`mainspring train`: carry out a recipe, on as many processes as its plan asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.carrying import Kind, carry_out
from mainspring.cli.options import OnnxFile, Overrides, RecipeOrNone
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.parallel import Plan, World
    from mainspring.train.events import Sink
    from mainspring.train.recipe import Recipe
    from mainspring.train.run import Run
    from mainspring.train.trainer import Result, Trainer


Out = Annotated[
    Path | None,
    typer.Option("--to", "--out", help="Run directory; runs/NAME where left out.", show_default=False),
]
Nproc = Annotated[
    int | None,
    typer.Option(
        min=1, help="Data ranks to start on this machine: the same as plan.data=N.", show_default=False
    ),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Begin with the weights of a run, a checkpoint or an exported model: train.init_from.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on although the recipe differs in what may change: length, learning rate, plan."
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Delete what the run directory holds of a run and begin anew.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


def train(
    recipe: RecipeOrNone = None,
    overrides: Overrides = None,
    model: OnnxFile = None,
    out: Out = None,
    nproc: Nproc = None,
    init_from: InitFrom = None,
    resume: Resume = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
) -> None:
    """Train what a recipe describes. The same command again goes on from the newest checkpoint.

    mainspring train gpt2-tiny data.path=runs/quickstart/data train.steps=50

    mainspring train --model digits.onnx data.path=digits.npz loss.kind=cross_entropy train.steps=200
    train.batch_rows=64

    The second line trains an ONNX graph from any framework and writes it back with its new weights.

    Ctrl-C or SIGTERM: the step under way is finished and saved, then the run ends (exit code 130 or 143).
    Under torchrun, on one machine or on several, each process is a rank of the run.
    """
    from mainspring.cli.train_graph import train_graph
    from mainspring.recipes import load
    from mainspring.train.graph.recipe import is_graph_recipe
    from mainspring.train.run import Run

    words = [
        *([recipe] if recipe is not None and model is not None and "=" in recipe else []),
        *(overrides or ()),
    ]
    recipe = None if recipe in words else recipe
    if model is not None or (recipe is not None and is_graph_recipe(recipe)):
        if init_from is not None:
            raise UsageError("--from begins with other weights of a transformer; a graph brings its own")
        train_graph(recipe, words, model, to=out, nproc=nproc, resume=resume, fresh=fresh, quiet=quiet)
        return
    if recipe is None:
        raise typer.BadParameter(
            "name one, a TOML file or a run directory, or a graph with --model graph.onnx",
            param_hint="RECIPE",
        )
    asked = load(recipe, [*(overrides or ()), *given(nproc, init_from)])
    named = Path(recipe)
    run = Run(out or (named if (named / "recipe.toml").is_file() else Path("runs") / asked.name))
    carry_out(asked, run, Transformers(), resume=resume, fresh=fresh, quiet=quiet)


def given(nproc: int | None, init_from: Path | None) -> list[str]:
    """Options of the command as overrides of the recipe."""
    found = [f"plan.data={nproc}"] if nproc else []
    if init_from is not None:
        found.append(f"train.init_from={json.dumps(str(init_from))}")
    return found


class Transformers(Kind["Recipe", "Trainer"]):
    """Runs of transformers."""

    def plan(self, asked: Recipe) -> Plan:
        """See `Kind.plan`."""
        return asked.plan

    def fits(self, asked: Recipe) -> Plan | None:
        """See `Kind.fits`."""
        return None if asked.train.elastic else asked.plan

    def threads(self, asked: Recipe) -> int:
        """See `Kind.threads`."""
        return asked.train.threads

    def read(self, run: Run) -> Recipe:
        """See `Kind.read`."""
        return run.read_recipe()

    def check(self, asked: Recipe) -> None:
        """See `Kind.check`."""
        from mainspring.recipes.forecast import check

        check(asked)

    def trainer(self, asked: Recipe, run: Run, world: World, sinks: Sequence[Sink]) -> Trainer:
        """See `Kind.trainer`."""
        from mainspring.train.trainer import Trainer

        return Trainer(asked, run.dir, world, sinks)

    def close(self, trainer: Trainer, result: Result, run: Run, world: World) -> None:
        """Keep what the model says of a probe, to compare with once it is loaded."""
        from mainspring.evaluate.probe import record

        setup = trainer.setup
        if setup is not None and result.checkpoint is not None:
            record(setup.model, run, result.step, world, setup.objective)
