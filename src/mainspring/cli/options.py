"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe's name, a TOML file, or a run directory.", show_default=False
    ),
]
RecipeOrNone = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name, a TOML file, or a run directory; may be left out with --model.",
        show_default=False,
    ),
]
OnnxFile = Annotated[
    Path | None,
    typer.Option("--model", help="Train this ONNX graph, from whatever framework.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.FIELD=VALUE]...",
        help="Settings in place of the recipe's: train.steps=100",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON.")]
