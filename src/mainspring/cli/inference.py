"""What the commands that run a model share: options, texts from arguments or files, news of the engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mainspring.cli.console import err
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.infer import Engine

T = TypeVar("T")

CHUNK = 256
"""Texts between two moves of the progress bar."""

PrecisionName = Annotated[
    str, typer.Option("--precision", help="What to compute in; mainspring doctor lists them.")
]
SelfCheck = Annotated[
    bool,
    typer.Option(
        "--self-check", help="First compare with the plain model in fp32, and refuse to go on if it is off."
    ),
]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")]
ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Run, checkpoint or exported model (folder).", show_default=False),
]
Texts = Annotated[
    list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; - reads lines of standard input.")
]
FromFile = Annotated[
    Path | None, typer.Option("--file", help="A file with a text on each line.", show_default=False)
]


def tell(engine: Engine) -> None:
    """Say on stderr what the engine has to be known by: notes, and what its self-check found."""
    for note in engine.notes:
        err().print(f"note: {note}", markup=False, style="yellow")
    if engine.checked is not None:
        err().print(f"self-check passed: {engine.checked}", markup=False, style="green")


def read_texts(texts: Sequence[str] | None, file: Path | None) -> list[str]:
    """The texts that were given.

    Raises:
        UsageError: none, or in two ways, or a file cannot be read.
    """
    if bool(texts) == (file is not None):
        raise UsageError("give texts as arguments, or --file FILE with one on each line")
    if file is not None or texts == ["-"]:
        name = "standard input" if file is None else str(file)
        try:
            data = sys.stdin.buffer.read() if file is None else file.read_bytes()
            return data.decode("utf-8").splitlines()
        except OSError as error:
            raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{name} is not UTF-8 text: byte {error.start}") from error
    return list(texts or ())


def as_pairs(texts: Sequence[str]) -> list[str] | list[tuple[str, str]]:
    """Texts with a tab in them as pairs.

    Raises:
        UsageError: some have a tab and others not, or there are several in one.
    """
    if not any("\t" in text for text in texts):
        return list(texts)
    pairs = [tuple(text.split("\t")) for text in texts]
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            raise UsageError(
                f"text {number + 1} has {len(pair) - 1} tabs: a pair is two texts with one tab between them, "
                f"and all are pairs or none is"
            )
    return [(a, b) for a, b in pairs]


def in_chunks(items: Sequence[T], what: str) -> Iterator[Sequence[T]]:
    """Parts of a long list, with a progress bar and the time left on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True, disable=len(items) <= CHUNK) as bar:
        task = bar.add_task(what, total=len(items))
        for start in range(0, len(items), CHUNK):
            part = items[start : start + CHUNK]
            yield part
            bar.advance(task, len(part))
