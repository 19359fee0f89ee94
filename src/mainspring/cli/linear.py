"""`mainspring linear`: linear models of sparse data by SGD, on several workers that agree with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring.cli.console import err, out, write_json
from mainspring.cli.options import AsJson
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.linear import LinearModel, SparseRows

app = typer.Typer(no_args_is_help=True, help="Linear models of sparse data: train, predict.")

Data = Annotated[
    Path, typer.Argument(help="svmlight lines, or a table (.csv, .tsv); .gz is read.", show_default=False)
]


@app.command()
def train(
    data: Data,
    to: Annotated[Path, typer.Option("--to", "--out", help="File to write.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="loss=hinge rate=0.5 workers=2 combiner=frequent ..."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Column to predict, of a table.", show_default=False)
    ] = None,
    bits: Annotated[int, typer.Option(min=1, max=30, help="2^bits places for a table's features.")] = 18,
    zero_based: Annotated[bool, typer.Option("--zero-based", help="svmlight indices begin at 0.")] = False,
    test: Annotated[Path | None, typer.Option(help="Score on this file too.", show_default=False)] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Go on from this model.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a linear model: least squares, logistic, or a support vector machine (hinge, squared_hinge).

    With workers=2 and more, each takes a block of examples at the same time and the results are composed as
    if they had been taken one after the other (SymSGD).

    mainspring linear train rcv1.txt.gz --to models/rcv1.safetensors workers=2 epochs=3

    mainspring linear train census.csv --target income --to models/census.safetensors loss=hinge
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from mainspring.config import apply_overrides, parse
    from mainspring.linear import EpochDone, LinearModel, LinearSettings, fit
    from mainspring.linear.train import BlockDone, Slow

    before = LinearModel.load(start) if start else None
    chosen = parse(LinearSettings, apply_overrides({}, settings or []), source="the command line")
    reader: dict[str, Any] = (
        before.reader if before else {"target": target, "bits": bits, "zero_based": zero_based}
    )
    rows, classes = _read(data, chosen.loss != "least_squares", reader, before)
    console = err()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("training", total=chosen.epochs * len(rows), rate="")

        def show(event: Any) -> None:
            if isinstance(event, BlockDone):
                bar.update(
                    task, completed=event.examples, rate=f"{event.examples_per_second:,.0f} examples/s"
                )
            elif isinstance(event, EpochDone):
                console.print(
                    f"epoch {event.epoch}: loss {event.loss:.4f} before learning, {event.seconds:.2f} s, "
                    f"{len(rows) / event.seconds:,.0f} examples/s",
                    markup=False,
                )
            elif isinstance(event, Slow):
                console.print(
                    f"note: {event.reason}; the portable pass is used", markup=False, style="yellow"
                )

        model = fit(rows, chosen, start=before, on_event=show)
    model = LinearModel(model.weights, chosen, model.examples, model.epochs, classes, reader)
    model.save(to)
    found = {"train": _scored(model, rows)}
    if test is not None:
        found["test"] = _scored(model, _read(test, bool(classes), reader, model)[0])
    if as_json:
        write_json({"model": str(to), **found})
        return
    for name, score in found.items():
        facts = ", ".join(f"{key} {value:.4f}" for key, value in score.items())
        out().print(f"{name}: {facts}", markup=False)
    out().print(str(to), markup=False)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="What `linear train` wrote.", show_default=False)],
    data: Data,
    score: Annotated[bool, typer.Option("--score", help="Print how good it is, not what it says.")] = False,
) -> None:
    """Print a line for each example: its class, or its number where the loss is least squares.

    mainspring linear predict models/rcv1.safetensors new.txt
    """
    from mainspring.linear import LinearModel

    loaded = LinearModel.load(model)
    rows = _read(data, score and bool(loaded.classes), loaded.reader, loaded)[0]
    if score:
        out().print(", ".join(f"{k} {v:.4f}" for k, v in _scored(loaded, rows).items()), markup=False)
        return
    for answer in loaded.predict(rows):
        out().print(answer if isinstance(answer, str) else f"{answer:.6g}", markup=False)


def _scored(model: LinearModel, rows: SparseRows) -> dict[str, float]:
    from dataclasses import asdict

    return {key: value for key, value in asdict(model.score(rows)).items() if value is not None}


def _read(
    path: Path, classify: bool, reader: dict[str, Any], model: LinearModel | None
) -> tuple[SparseRows, tuple[str, ...]]:
    """Examples with targets as the loss needs them, and the classes."""
    from dataclasses import replace

    import numpy as np

    from mainspring.errors import DataError
    from mainspring.linear.readers import read_csv, read_svmlight, two_classes

    if path.name.removesuffix(".gz").endswith((".csv", ".tsv")):
        if reader.get("target") is None:
            raise UsageError(f"{path}: a table; name the column to predict with --target")
        rows, names = read_csv(path, target=str(reader["target"]), bits=int(reader["bits"]))
    else:
        known = len(model.weights) - 1 if model else None
        rows = read_svmlight(path, features=known, one_based=not reader["zero_based"])
        names = [f"{target:g}" for target in rows.targets]
    if classify:
        targets, classes = two_classes(names, model.classes if model else ())
        return replace(rows, targets=targets), classes
    try:
        numbers = np.array(names, dtype=np.float32)
    except ValueError as error:
        if model is not None:  # to predict needs no targets
            return rows, ()
        raise DataError(f"{path}: a target that is not a number ({error}); use another loss") from error
    return replace(rows, targets=numbers), ()
