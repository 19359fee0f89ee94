"""The `mainspring` command: registers the commands and turns errors into messages and exit codes.

A command's module imports at its top only what its signature needs; the rest is imported when it runs, so
that `mainspring --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback as tracebacks
from typing import Annotated

import typer

from mainspring import __version__
from mainspring.cli import (
    classify,
    consolidate,
    data,
    distill,
    doctor,
    embed,
    evaluate,
    export,
    generate,
    linear,
    pack,
    plan,
    profile,
    prune,
    quantize,
    quickstart,
    report,
    schema,
    search,
    sensitivity,
    serve,
    spell,
    train,
)
from mainspring.cli.console import err, out
from mainspring.cli.errors import INTERRUPTED, exit_code, message
from mainspring.errors import MainspringError, UsageError

TRACEBACK = "--traceback"

app = typer.Typer(
    name="mainspring",
    help="Train one central model at any scale, specialise it, compress it, serve it.",
    epilog="Start with: mainspring quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        out().print(f"mainspring {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="Show the stack of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Train one central model at any scale, specialise it, compress it, serve it."""


_START = "From text to a served model"
_FIND = "Products"
_LOOK = "Look and plan"
_SMALL = "Make it small"
_MOVE = "In and out"

app.command("quickstart", rich_help_panel=_START)(quickstart.quickstart)
app.add_typer(data.app, name="data", rich_help_panel=_START)
app.command("train", rich_help_panel=_START)(train.train)
app.add_typer(linear.app, name="linear", rich_help_panel=_START)
app.command("evaluate", rich_help_panel=_START)(evaluate.evaluate)
app.command("generate", rich_help_panel=_START)(generate.generate)
app.command("embed", rich_help_panel=_START)(embed.embed)
app.command("classify", rich_help_panel=_START)(classify.classify)
app.command("serve", rich_help_panel=_START)(serve.serve)
app.add_typer(search.app, name="search", rich_help_panel=_FIND)
app.add_typer(spell.app, name="spell", rich_help_panel=_FIND)
app.command("doctor", rich_help_panel=_LOOK)(doctor.doctor)
app.command("plan", rich_help_panel=_LOOK)(plan.plan)
app.command("profile", rich_help_panel=_LOOK)(profile.profile)
app.command("report", rich_help_panel=_LOOK)(report.report)
app.command("schema", rich_help_panel=_LOOK)(schema.schema)
app.command("distill", rich_help_panel=_SMALL)(distill.distill)
app.command("prune", rich_help_panel=_SMALL)(prune.prune)
app.command("sensitivity", rich_help_panel=_SMALL)(sensitivity.sensitivity)
app.command("quantize", rich_help_panel=_SMALL)(quantize.quantize)
app.command("export", rich_help_panel=_MOVE)(export.export)
app.command("pack", rich_help_panel=_MOVE)(pack.pack)
app.command("consolidate", rich_help_panel=_MOVE)(consolidate.consolidate)
app.command("import", rich_help_panel=_MOVE)(export.import_)


def tell(error: MainspringError, stack_shown: bool) -> None:
    """Print an error; ranks of a run that all find the same fault in the input leave it to the first."""
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0 or not isinstance(error, UsageError):
        text = message(error, traceback_shown=stack_shown)
        err().print(f"rank {rank}: {text}" if rank else text, markup=False, style="red")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code (see `mainspring.cli.errors`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_stack = TRACEBACK in arguments
    arguments = [a for a in arguments if a != TRACEBACK]
    try:
        app(args=arguments, prog_name="mainspring", obj=arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except MainspringError as error:
        if show_stack:
            tracebacks.print_exc()
        tell(error, show_stack)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
