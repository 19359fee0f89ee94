"""`mainspring sensitivity`: which layers a format hurts, and formats within a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import out
from mainspring.cli.options import AsJson
from mainspring.cli.quantize import Calibrate, Length, Texts
from mainspring.errors import UsageError


def sensitivity(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A run, a checkpoint or an exported model's folder.", show_default=False
        ),
    ],
    calibrate: Calibrate = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="A format to try; may be repeated.", show_default="a usual set"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="Most megabytes (10^6) of all layers' matrices.", show_default=False),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(
            min=0, help="In place of --budget: most milliseconds of all layers' products.", show_default=False
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Tokens at once, for --latency.")] = 128,
    texts: Texts = 64,
    length: Length = 128,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the report here as JSON.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it here: a .svg or .png.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what each layer loses in each format, alone, and propose formats within a budget.

    mainspring sensitivity runs/gpt2 --calibrate data/text --budget 60 --to bits.json

    mainspring quantize runs/gpt2 --to models/gpt2-mixed --format int8 --bits bits.json
    """
    from rich.table import Table

    from mainspring.infer.quantized.native import best_kernels
    from mainspring.recipes.compression import Text
    from mainspring.recipes.sensitivity import FORMATS, TIMED_FORMATS, draw, report

    if budget is not None and latency is not None:
        raise UsageError("--budget and --latency exclude each other: give megabytes or milliseconds")
    if calibrate is None:
        raise UsageError("losses are measured on text: give some with --calibrate")
    text = Text(calibrate, texts, length)
    if latency is None:
        most = None if budget is None else budget * 1e6
        found = report(model, text, formats=formats or FORMATS, budget=most)
    else:
        kernels = best_kernels()
        found = report(
            model, text, formats=formats or TIMED_FORMATS, budget=latency, rows=rows, kernels=kernels
        )
    values = found.as_dict()
    if to is not None:
        to.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        draw(found, plot)
    if as_json:
        out().print_json(json.dumps(values))
        return
    tried = list(dict.fromkeys(option.format for option in found.options))
    table = Table("layer", *tried, *(["proposed"] if found.proposal else []))
    by_layer: dict[str, dict[str, float]] = {}
    for option in found.options:
        by_layer.setdefault(option.layer, {})[option.format] = option.loss
    for layer, losses in by_layer.items():
        chosen = [found.proposal.formats[layer]] if found.proposal else []
        table.add_row(layer, *(f"{losses[form]:+.2e}" for form in tried), *chosen)
    out().print(table)
    if found.proposal is not None and found.greedy is not None:
        out().print(
            f"{_amount(found.proposal.cost, found.unit)}, loss {found.loss:.4g} {found.proposal.loss:+.2e} "
            f"expected (greedily {found.greedy.loss:+.2e})",
            markup=False,
        )


def _amount(cost: float, unit: str) -> str:
    return f"{cost / 1e6:.2f} MB" if unit == "bytes" else f"{cost:.2f} ms"
