"""`mainspring export` and `mainspring import`: models out to other programs' layouts, and in from them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import out


class Layout(StrEnum):
    """Layouts that models can be written in."""

    hf = "hf"


def export(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run directory, or one of its checkpoints.", show_default=False),
    ],
    to: Annotated[Path, typer.Option("--to", help="Directory to write.", show_default=False)],
    layout: Annotated[
        Layout,
        typer.Option(
            "--format", help="hf: config.json, safetensors and tokenizer, as transformers loads them."
        ),
    ] = Layout.hf,
) -> None:
    """Write a run's newest checkpoint for other programs.

    mainspring export runs/quickstart --to models/quickstart
    """
    from mainspring.recipes.exchange import export_run

    assert layout is Layout.hf
    export_run(path, to)
    out().print(str(to), markup=False)


def import_(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="HF_DIR", show_default=False, help="Directory with config.json and safetensors."
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Run directory to make.", show_default=False)],
    data: Annotated[str, typer.Option(help="Data directory that the run's recipe names.")] = "data/tokens",
) -> None:
    """Make a run out of a Hugging Face model: it can be evaluated, served and exported like one trained here.

    mainspring import models/gpt2 --to runs/gpt2
    """
    from mainspring.recipes.exchange import import_run

    import_run(path, to, data=data)
    out().print(str(to), markup=False)
