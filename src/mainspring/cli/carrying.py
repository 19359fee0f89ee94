"""Carrying out a run: as one of its ranks, alone, or by starting all of them; for commands that train."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import typer

from mainspring.cli.console import err
from mainspring.cli.errors import SIGNALLED
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.config import Section
    from mainspring.parallel import Plan, World
    from mainspring.train.events import Sink
    from mainspring.train.run import Run
    from mainspring.train.trainer import Result


class Trains(Protocol):
    """Carries out a recipe on a rank."""

    def fit(self) -> Result:
        """Train until the last step or a signal."""
        ...


R = TypeVar("R", bound="Section")
T = TypeVar("T", bound=Trains)


class Kind(ABC, Generic[R, T]):
    """What recipes of one kind decide of a run."""

    @abstractmethod
    def plan(self, asked: R) -> Plan:
        """How it is spread over ranks."""

    def fits(self, asked: R) -> Plan | None:
        """What has to have as many ranks as were started; None: any number will do."""
        return self.plan(asked)

    @abstractmethod
    def threads(self, asked: R) -> int:
        """Compute threads of a rank; 0: a share of the cores."""

    @abstractmethod
    def read(self, run: Run) -> R:
        """The recipe that a run's directory holds.

        Raises:
            UsageError: it is of another kind.
        """

    def check(self, asked: R) -> None:
        """Find what is wrong before ranks are started, where a fault is told once and at once.

        Raises:
            UsageError: something is.
        """

    @abstractmethod
    def trainer(self, asked: R, run: Run, world: World, sinks: Sequence[Sink]) -> T:
        """What trains."""

    def close(self, trainer: T, result: Result, run: Run, world: World) -> None:
        """What there is to do once it has; every rank calls it."""


def carry_out(asked: R, run: Run, kind: Kind[R, T], *, resume: bool, fresh: bool, quiet: bool) -> None:
    """Train a recipe in a run directory: as a rank, alone, or by starting all ranks.

    Raises:
        UsageError: the directory holds a run of another recipe, or the recipe cannot be carried out.
    """
    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other: go on with the run, or begin anew")
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _as_rank(asked, run, kind, quiet)
        return
    if fresh:
        clear(run)
    elif not resume:
        _refuse_other(asked, run, kind)
    ranks = kind.plan(asked).world
    if ranks == 1:
        _as_rank(asked, run, kind, quiet)
        return
    from mainspring.train.launch import launch

    kind.check(asked)
    run.dir.mkdir(parents=True, exist_ok=True)
    run.write_recipe(asked)
    code = launch(run.recipe, run.dir, ranks, options=["--quiet"] if quiet else [])
    if code:
        raise typer.Exit(code)


def _as_rank(asked: R, run: Run, kind: Kind[R, T], quiet: bool) -> None:
    """Be one rank of the run: alone, or one of those that torchrun started."""
    from mainspring.cli.progress import ProgressSink
    from mainspring.parallel.world import World

    with World.start(kind.fits(asked), threads=kind.threads(asked)) as world:
        if world.is_main and not quiet:
            with ProgressSink() as sink:
                trainer = kind.trainer(asked, run, world, [sink])
                result = trainer.fit()
        else:
            trainer = kind.trainer(asked, run, world, [])
            result = trainer.fit()
        kind.close(trainer, result, run, world)
        if result.status == "interrupted" and world.is_main:
            err().print(f"saved; the same command goes on after step {result.step}", markup=False)
    if result.signal is not None:
        raise typer.Exit(SIGNALLED + result.signal)


def _refuse_other(asked: R, run: Run, kind: Kind[R, T]) -> None:
    """Refuse a run directory whose recipe is another one, naming what differs.

    Raises:
        UsageError: it is.
    """
    from mainspring.recipes.differences import differences
    from mainspring.train.checkpoint import latest

    if not run.recipe.is_file() or latest(run.checkpoints) is None:
        return  # nothing to lose yet
    found = differences(kind.read(run), asked)
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
