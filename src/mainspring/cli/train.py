"""`mainspring train`: carry out a recipe, on as many processes as its plan asks for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.console import err
from mainspring.cli.errors import SIGNALLED
from mainspring.cli.options import OnnxFile, Overrides, RecipeOrNone
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.train.recipe import Recipe
    from mainspring.train.run import Run


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
    carry_out(asked, run, resume=resume, fresh=fresh, quiet=quiet)


def given(nproc: int | None, init_from: Path | None) -> list[str]:
    """Options of the command as overrides of the recipe."""
    found = [f"plan.data={nproc}"] if nproc else []
    if init_from is not None:
        found.append(f"train.init_from={json.dumps(str(init_from))}")
    return found


def carry_out(asked: Recipe, run: Run, *, resume: bool, fresh: bool, quiet: bool) -> None:
    """Train a recipe in a run directory: as a rank, alone, or by starting all ranks.

    Raises:
        UsageError: the directory holds a run of another recipe, or the recipe cannot be carried out.
    """
    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other: go on with the run, or begin anew")
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _as_rank(asked, run, quiet)
        return
    if fresh:
        clear(run)
    elif not resume:
        _refuse_other(asked, run)
    if asked.plan.world == 1:
        _as_rank(asked, run, quiet)
        return
    from mainspring.recipes.forecast import check
    from mainspring.train.launch import launch

    check(asked)  # here, where a fault is told once and at once
    run.dir.mkdir(parents=True, exist_ok=True)
    run.write_recipe(asked)
    code = launch(run.recipe, run.dir, asked.plan.world, options=["--quiet"] if quiet else [])
    if code:
        raise typer.Exit(code)


def _as_rank(recipe: Recipe, run: Run, quiet: bool) -> None:
    """Be one rank of the run: alone, or one of those that torchrun started."""
    from mainspring.cli.progress import ProgressSink
    from mainspring.evaluate.probe import record
    from mainspring.parallel.world import World
    from mainspring.train.trainer import Trainer

    with World.start(None if recipe.train.elastic else recipe.plan, threads=recipe.train.threads) as world:
        if world.is_main and not quiet:
            with ProgressSink() as sink:
                trainer = Trainer(recipe, run.dir, world, [sink])
                result = trainer.fit()
        else:
            trainer = Trainer(recipe, run.dir, world)
            result = trainer.fit()
        if trainer.setup is not None and result.checkpoint is not None:
            setup = trainer.setup
            record(setup.model, run, result.step, world, setup.objective)
        if result.status == "interrupted" and world.is_main:
            err().print(f"saved; the same command goes on after step {result.step}", markup=False)
    if result.signal is not None:
        raise typer.Exit(SIGNALLED + result.signal)


def _refuse_other(recipe: Recipe, run: Run) -> None:
    """Refuse a run directory whose recipe is another one, naming what differs.

    Raises:
        UsageError: it is.
    """
    from mainspring.recipes.differences import differences
    from mainspring.train.checkpoint import latest

    if not run.recipe.is_file() or latest(run.checkpoints) is None:
        return  # nothing to lose yet
    found = differences(run.read_recipe(), recipe)
    if found:
        lines = "".join(
            f"\n  {field}: the run has {before}, you ask for {now}" for field, before, now in found
        )
        raise UsageError(
            f"{run.dir} holds a run of another recipe:{lines}\n"
            "Choose another --out, go on with the run under the new settings with --resume, or begin anew "
            "with --fresh"
        )


def clear(run: Run) -> None:
    """Delete what a run has written; other files of the directory, its data among them, stay."""
    import shutil

    from mainspring.evaluate.probe import probe_file

    for folder in (run.checkpoints, run.tensorboard):
        if folder.is_dir():
            shutil.rmtree(folder)
    told = (run.metrics, run.evaluation, run.samples, run.report, run.dir / "summary.json")
    for file in (run.recipe, run.plan, run.tokenizer, probe_file(run), *told):
        file.unlink(missing_ok=True)
