"""mainspring pack: weights in one mapped file, so that a model starts at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import out
from mainspring.cli.inference import ModelPath, PrecisionName


def pack(
    path: ModelPath,
    precision: PrecisionName = "fp32",
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to write it.", show_default="MODEL/packed, where commands look for it"),
    ] = None,
) -> None:
    """Write a model's weights as they are computed with, in one memory-mapped file per precision.

    Commands and `Engine.load` find the file by themselves; it is made anew once the model has changed.

    mainspring pack models/minilm --precision bf16
    """
    from mainspring.infer.opening import pack_model

    written, new = pack_model(path, precision, folder)
    size = written.stat().st_size / 1e6
    out().print(f"{written}: {size:.1f} MB{'' if new else ', up to date already'}", markup=False)
