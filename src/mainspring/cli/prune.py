"""`mainspring prune`: a model with fewer layers, heads or feed-forward columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import out
from mainspring.cli.quantize import Calibrate, Length, Texts
from mainspring.errors import UsageError


def prune(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A run, a checkpoint or an exported model's folder.", show_default=False
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Directory to write.", show_default=False)],
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to keep: how many, at equal distances, or which: 0,2,5.", show_default=False
        ),
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads to keep in each layer.", show_default=False)
    ] = None,
    d_ff: Annotated[
        int | None,
        typer.Option("--d-ff", min=1, help="Feed-forward columns to keep in each layer.", show_default=False),
    ] = None,
    calibrate: Calibrate = None,
    texts: Texts = 64,
    length: Length = 128,
) -> None:
    """Write a really smaller model. What is left can be trained on, distilled into, quantised, exported.

    mainspring prune runs/bert --to models/half --layers 6

    mainspring prune models/half --to models/third --heads 8 --d-ff 2048 --calibrate data/text
    """
    from mainspring.recipes.compression import Text, prune_model

    done = prune_model(
        model,
        to,
        layers=_layers(layers),
        heads=heads,
        d_ff=d_ff,
        text=None if calibrate is None else Text(calibrate, texts, length),
    )
    config = done.config
    count = sum(parameter.numel() for parameter in done.model.parameters())
    out().print(
        f"{to}: {config.n_layers} layers of {config.n_heads} heads and d_ff = {config.d_ff}, {count:,} "
        "parameters",
        markup=False,
    )


def _layers(asked: str | None) -> int | list[int] | None:
    if asked is None:
        return None
    try:
        if "," in asked:
            return [int(part) for part in asked.split(",") if part]
        return int(asked)
    except ValueError:
        raise UsageError(f"--layers {asked!r}: give how many to keep (6), or which (0,2,5)") from None
