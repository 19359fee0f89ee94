"""`mainspring quantize`: a model with its weights in a narrow format."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import out
from mainspring.cli.options import AsJson
from mainspring.errors import UsageError


class Rounding(StrEnum):
    """How weights are rounded."""

    rtn = "rtn"
    smooth = "smooth"
    gptq = "gptq"


Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        help="Text that the model reads, a file or a folder, to calibrate with.",
        show_default=False,
    ),
]
Texts = Annotated[int, typer.Option("--texts", min=1, help="Texts (paragraphs) of it to take.")]
Length = Annotated[int, typer.Option("--length", min=8, help="Most tokens of a text.")]


def quantize(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A run, a checkpoint or an exported model's folder.", show_default=False
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Directory to write.", show_default=False)],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="int8, int4, int4-g32, msfp12, mxfp8_e4m3, ...: as numerics names them."
        ),
    ] = "int8",
    method: Annotated[
        Rounding,
        typer.Option(
            help="rtn: to the nearest. smooth: outlying inputs moved into the weights. gptq: columns make "
            "up for one another. The last two need --calibrate."
        ),
    ] = Rounding.rtn,
    calibrate: Calibrate = None,
    texts: Texts = 64,
    length: Length = 128,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="Another format for a layer or map: layers.0=int8. May be repeated.",
            show_default=False,
        ),
    ] = None,
    bits: Annotated[
        Path | None,
        typer.Option("--bits", help="Formats of layers as mainspring sensitivity proposes them (JSON)."),
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="Format of the tables of tokens too; left out, they stay as they are.")
    ] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="Share of the migration (smooth).")] = 0.5,
    activations: Annotated[
        bool, typer.Option("--activations", help="Also find static scales of the maps' inputs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model with its weight matrices in a narrow format. Everything that loads models loads it.

    mainspring quantize runs/student --to models/student-int8 --format int8 --embeddings int8

    mainspring quantize runs/gpt2 --to models/gpt2-int4 --format int4-g32 --method gptq --calibrate data/text
    """
    from dataclasses import asdict

    from mainspring.recipes.compression import Text, folder_bytes, quantize_model

    others: dict[str, str] = {}
    if bits is not None:
        others |= read_bits(bits)
    for one in layers or []:
        name, equals, other = one.partition("=")
        if not equals:
            raise UsageError(f"--layer {one!r}: write it as NAME=FORMAT, e.g. layers.0=int8")
        others[name] = other
    done = quantize_model(
        model,
        to,
        form=form,
        method=method.value,
        layers=others,
        embeddings=embeddings,
        text=None if calibrate is None else Text(calibrate, texts, length),
        strength=strength,
        activations=activations,
    )
    if as_json:
        told = {"to": str(to), "bytes": folder_bytes(to), "changes": [asdict(c) for c in done.changes]}
        out().print_json(json.dumps(told))
        return
    worst = max(done.changes, key=lambda change: change.error)
    out().print(
        f"{to}: {len(done.changes)} matrices in {', '.join(sorted(set(done.formats.values())))}, "
        f"{folder_bytes(to):,} bytes of weights; largest relative squared error {worst.error:.2e} "
        f"({worst.name})",
        markup=False,
    )


def read_bits(path: Path) -> dict[str, str]:
    """The formats of layers in a file that `mainspring sensitivity` has written.

    Raises:
        UsageError: it is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["proposal"]["formats"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: no proposal can be read ({error}); make one with mainspring sensitivity --budget"
        ) from error
    return {str(name): str(form) for name, form in found.items() if form != "fp32"}
