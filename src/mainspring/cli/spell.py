"""mainspring spell: correct spelling, list the languages, make the speller anew."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mainspring.cli.console import err, out, table, write_json
from mainspring.cli.options import AsJson
from mainspring.errors import DataError, UsageError

if TYPE_CHECKING:
    from mainspring.products.spelling import Correction

_CORRECT = "correct"


class TextOrCommand(TyperGroup):
    """A group whose first word may be left out: what is no command's name is text to correct."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command before text or options."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [_CORRECT, *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=TextOrCommand,
    help='Correct spelling in more than a hundred languages: mainspring spell "recieve the pakage".',
    no_args_is_help=True,
)


@app.command(_CORRECT)
def correct(
    text: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT|FILE|-", help="A text, a file, or - for standard input.", show_default=False
        ),
    ],
    language: Annotated[str, typer.Option(help="BCP 47 tag of the language; auto finds it.")] = "auto",
    threshold: Annotated[
        float,
        typer.Option(help="Probability from which a word is corrected: higher corrects less, and errs less."),
    ] = 0.5,
    details: Annotated[
        bool, typer.Option("--details", help="Also show each word's place and candidates.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="File for the corrected text.", show_default="standard output")
    ] = None,
    speller: Annotated[
        Path | None,
        typer.Option(help="Folder that 'spell train' wrote.", show_default="what the package ships"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Correct a text or a file. Names, code, numbers and addresses are left alone."""
    from mainspring.products.spelling import Speller

    # JSON has no place for bytes that are no UTF-8; everywhere else they come out as they went in.
    given = _read(text, "replace" if as_json else "surrogateescape")
    found = Speller.load(speller).correct(given, language=language, threshold=threshold)
    if as_json:
        write_json({**asdict(found), "words": [_word(word) for word in found.words]})
        return
    if to is not None:
        try:
            to.write_bytes(found.corrected.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise UsageError(f"--to {to}: cannot be written ({error.strerror})") from error
    else:
        end = "" if found.corrected.endswith("\n") else "\n"
        sys.stdout.flush()
        sys.stdout.buffer.write((found.corrected + end).encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    if details:
        _show(found)


@app.command()
def languages(as_json: AsJson = False) -> None:
    """List the languages that are corrected, with their families."""
    from mainspring.products.spelling import LANGUAGES, Speller

    shipped = Speller.load().languages
    rows = [LANGUAGES[tag] for tag in shipped]
    if as_json:
        write_json([{"tag": r.tag, "name": r.name, "family": r.family} for r in rows])
        return
    shown = table(f"{len(rows)} languages", "tag", "name", "family")
    for row in rows:
        shown.add_row(row.tag, row.name, row.family)
    out().print(shown)


@app.command()
def train(
    data: Annotated[
        Path, typer.Option(help="Folder with misspellings and texts (spelling/, multilingual/).")
    ],
    to: Annotated[
        Path, typer.Option(help="Folder to write; what it holds already is not made again.")
    ] = Path("speller"),
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")] = "spelling",
) -> None:
    """Make the speller anew: lexicons, error channels, ranker.

    Each part is written when it is done; run it again to go on after Ctrl-C.
    """
    from mainspring.planner.units import duration
    from mainspring.products.spelling.training.build import build

    console = err()
    begun = time.monotonic()

    def tell(part: str, done: int, total: int, eta: float | None) -> None:
        rest = "" if eta is None else f", ETA {duration(eta)}"
        console.print(f"{part}: {done:,} of {total:,}{rest}", markup=False)

    made = build(data, to, recipe=recipe, tell=tell)
    for name, size in made.items():
        out().print(f"{to / name}: {size:,} bytes", markup=False)
    console.print(f"finished in {duration(time.monotonic() - begun)}", markup=False)


def _read(text: list[str], errors: str) -> str:
    """The text, or what a file or standard input holds; `errors` as for `bytes.decode`."""
    if text == ["-"]:
        return sys.stdin.buffer.read().decode("utf-8", errors)
    if len(text) == 1 and _may_be_file(text[0]):
        path = Path(text[0])
        try:
            if path.is_file():
                return path.read_bytes().decode("utf-8", errors)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return " ".join(text).encode("utf-8", "surrogateescape").decode("utf-8", errors)


def _may_be_file(text: str) -> bool:
    """Whether a system could have a file of that name."""
    names = text.encode("utf-8", "surrogateescape").split(b"/")
    return len(text) < 4096 and "\0" not in text and all(len(name) <= 255 for name in names)


def _word(word: Any) -> dict[str, Any]:
    return {
        **asdict(word),
        "candidates": [{"text": c.text, "probability": c.probability} for c in word.candidates],
    }


def _show(found: Correction) -> None:
    console = err()
    sure = "given" if found.confidence == 1 else f"{found.confidence:.0%}"
    console.print(f"language: {found.language} ({sure})", markup=False)
    for word in found.words:
        shown = ", ".join(f"{c.text} {c.probability:.2f}" for c in word.candidates) or "no candidates"
        mark = f"-> {word.correction}" if word.correction is not None else "stays"
        console.print(f"{word.start}-{word.stop} {word.text} {mark} ({word.kind}): {shown}", markup=False)
