"""`mainspring quickstart`: the whole way from text to a model that answers, in minutes, without a file or a
network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from mainspring.cli.console import err, out
from mainspring.cli.errors import INTERRUPTED
from mainspring.errors import ConfigError

if TYPE_CHECKING:
    from mainspring.recipes.quickstart import news


def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.FIELD=VALUE]...",
            help="Settings in place of the recipe's: train.precision=fp32",
            show_default=False,
        ),
    ] = None,
    run_dir: Annotated[Path, typer.Option("--out", help="Run directory; the data goes inside.")] = Path(
        "runs/quickstart"
    ),
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps; the recipe's where left out.", show_default=False),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(
            help="Take fewer steps where at the pace of a pilot run they would take longer than this."
        ),
    ] = 2.7,
    corpus_mb: Annotated[
        float, typer.Option("--corpus-mb", help="Megabytes of documentation to learn from.")
    ] = 16.0,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Delete the run that an earlier quickstart left and begin anew; the corpus stays."
        ),
    ] = False,
) -> None:
    """Build a corpus, plan, train on two processes, evaluate, save, reload, complete prompts, make an encoder
    of the model and quantise it, search the installed documentation with it, report.

    The corpus is the documentation of the installed Python modules and the Universal Declaration of Human
    Rights in 388 languages. Training is in bf16 where the processor multiplies that, else in fp32. The same
    command again goes on where it stopped.
    """
    from mainspring.errors import require
    from mainspring.products.search.documentation import search_documentation
    from mainspring.recipes.quickstart import Corpus, forget, run
    from mainspring.train.run import Run

    for engine in ("tantivy", "usearch"):  # now, not after minutes of training
        require(engine, "search")
    if corpus_mb <= 0 or minutes <= 0:
        raise ConfigError(f"--corpus-mb {corpus_mb:g} --minutes {minutes:g}: both should be above 0")
    if fresh:
        from mainspring.cli.carrying import clear

        clear(Run(run_dir))
        forget(run_dir)
    began = time.monotonic()
    with Narrator() as narrator:
        summary = run(
            run_dir,
            overrides=overrides or (),
            steps=steps,
            minutes=minutes,
            corpus=Corpus(limit_bytes=round(corpus_mb * 1e6)),
            search=search_documentation,
            tell=narrator,
        )
    if summary.status == "interrupted":
        err().print(f"interrupted and saved; go on with: mainspring quickstart --out {run_dir}", markup=False)
        raise typer.Exit(INTERRUPTED)
    console = out()
    seconds = time.monotonic() - began
    console.print(f"\ndone in {int(seconds) // 60} min {int(seconds) % 60:02d} s", style="bold green")
    console.print(f"  open   {summary.report}", markup=False)
    console.print(f"  serve  mainspring serve {run_dir}", markup=False)
    console.print(f"  search mainspring search serve {run_dir / 'search'}", markup=False)


class Narrator:
    """Tells a person what the quickstart does; use it as a context."""

    def __init__(self) -> None:
        from mainspring.cli.data import BuildProgress

        self._building = BuildProgress()
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, item: news.News) -> None:
        """Take a piece of news."""
        from mainspring.data.build import Progress
        from mainspring.recipes.quickstart import news

        if isinstance(item, Progress):
            if not self._open:
                self._open = True
                self._building.__enter__()
            self._building(item)
            return
        self._close()
        console = out()
        if isinstance(item, news.StageBegan):
            titles = {
                "corpus": "Text, tokenizer and token shards",
                "plan": "The plan, before anything is allocated",
                "train": "Training",
                "evaluate": "Held-out text, beside n-gram models",
                "reload": "Reloading the checkpoint, and three prompts",
                "specialise": "Specialising: an encoder for search, over the model",
                "quantise": "Quantising the encoder",
                "search": "Searching the installed documentation with it",
                "report": "The report",
            }
            console.print(f"\n{item.number}/{item.total}  {titles[item.stage]}", style="bold cyan")
        else:
            self._tell(item)

    def _tell(self, item: news.News) -> None:
        from mainspring.cli.data import show_build
        from mainspring.cli.evaluate import show_comparison
        from mainspring.cli.plan import show_forecast
        from mainspring.planner.units import duration
        from mainspring.recipes.quickstart import news

        console = out()
        if isinstance(item, news.CorpusReady):
            if item.report is None:
                console.print(
                    f"{item.directory} is there: {item.train_tokens:,} tokens to train on, "
                    f"{item.holdout_tokens:,} held out",
                    markup=False,
                )
            else:
                show_build(item.report)
        elif isinstance(item, news.PlanReady):
            show_forecast(item.forecast)
        elif isinstance(item, news.PilotDone):
            console.print(
                f"a pilot run takes {duration(item.seconds_per_step)} a step", markup=False, style="dim"
            )
            if item.steps < item.wanted:
                console.print(
                    f"{item.steps} steps instead of the recipe's {item.wanted}, which would take longer than "
                    "allowed on this machine (--minutes)",
                    markup=False,
                    style="yellow",
                )
        elif isinstance(item, news.TrainingSkipped):
            console.print(f"all {item.step} steps are done already (--fresh begins anew)", markup=False)
        elif isinstance(item, news.Scored):
            show_comparison(item.comparison)
        elif isinstance(item, news.Reloaded):
            console.print(
                f"{item.checkpoint}: loaded; all {item.agreement.logits:,} logits of the probe are identical "
                "to "
                "the trained model's",
                markup=False,
            )
        elif isinstance(item, news.Sampled):
            console.print(f"\n[bold]{_plain(item.prompt)}[/]{_plain(item.completion.text)}")
        elif isinstance(item, news.EncoderTrained):
            done = item.specialised
            console.print(
                f"{item.folder}: a layer over the model, learnt from {done.learnt:,} docstrings. Among "
                f"{done.held_out:,} held-out texts a first sentence finds its own first in "
                f"{done.after.first:.0%} ({done.before.first:.0%} before), among the first ten in "
                f"{done.after.ten:.0%} ({done.before.ten:.0%})",
                markup=False,
            )
        elif isinstance(item, news.EncoderNarrowed):
            narrow = item.quantised
            console.print(
                f"{item.folder}: {narrow.format}, {narrow.bytes_after:,} bytes instead of "
                f"{narrow.bytes_before:,}; its own text first in {narrow.after.first:.0%}, among the first "
                f"ten in {narrow.after.ten:.0%}",
                markup=False,
            )
        elif isinstance(item, news.Indexed):
            console.print(
                f"{item.folder}: {item.documents:,} modules, {item.passages:,} passages in "
                f"{duration(item.seconds)}; ranked by {item.ranker}",
                markup=False,
            )
        elif isinstance(item, news.Answered):
            console.print(f"\n[bold]{_plain(item.query)}[/]  [dim]{item.milliseconds:.0f} ms[/]")
            for found in item.found:
                console.print(f"  {found.relevance:.1f}  {found.title}: {found.caption}"[:160], markup=False)
        elif isinstance(item, news.ReportWritten):
            console.print(item.path, markup=False)

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._building.__exit__()


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
