"""`mainspring data pairs`: parallel text into encoded pairs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.console import out, table, write_json
from mainspring.cli.options import AsJson
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.data.pair_build import PairReport, PairSource


def pairs(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC:TGT=FILE[,FILE]...",
            help="Language tags of source and target, and a file of two columns parted by a tab, or two "
            "files whose lines belong together; .gz is opened.",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Directory to write.", show_default=False)],
    tokenizer: Annotated[
        Path,
        typer.Option(
            help="The run's: a tokenizer.json, or a directory that has one, as data directories do.",
            show_default=False,
        ),
    ],
    languages: Annotated[
        str | None,
        typer.Option(
            help="Tags in order of the indices that the model knows languages by: ar,bg,de.",
            show_default="those of the pairs, sorted",
        ),
    ] = None,
    both_ways: Annotated[
        bool, typer.Option("--both-ways", help="Also write each direction the other way round.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest side; longer ones are cut.")] = 254,
    as_json: AsJson = False,
) -> None:
    """Encode translations, or other texts that belong together, for objectives on pairs.

    mainspring data pairs en:de=news.en,news.de en:fr=news.tsv --to data/pairs --tokenizer data/text

    Malformed lines are named with their file and left out; files of different length are refused.
    """
    from mainspring.data.pair_build import build_pairs
    from mainspring.text.tokenizer import Tokenizer

    report = build_pairs(
        [_source(text) for text in sources],
        Tokenizer.load(tokenizer),
        to,
        languages=[tag for tag in (languages or "").split(",") if tag.strip()],
        both_ways=both_ways,
        max_tokens=max_tokens,
    )
    if as_json:
        write_json(report.to_dict())
    else:
        show(report)


def _source(text: str) -> PairSource:
    """Read `SRC:TGT=FILE[,FILE]`.

    Raises:
        UsageError: it is written otherwise.
    """
    from mainspring.data.pair_build import PairSource

    found = re.fullmatch(r"([\w-]+):([\w-]+)=(.+)", text)
    if found is None:
        raise UsageError(
            f"{text!r}: write it as SRC:TGT=FILE or SRC:TGT=FILE,FILE, e.g. en:de=news.tsv or "
            "en:de=news.en,news.de"
        )
    one, two, paths = found.groups()
    first, comma, second = paths.partition(",")
    if not comma or Path(paths).is_file():
        return PairSource(one, two, paths)
    if not first or not second:
        raise UsageError(f"{text!r}: a comma stands between two files")
    return PairSource(one, two, first, second)


def show(report: PairReport) -> None:
    """Print what a build read, left out and wrote."""
    from mainspring.planner.units import amount

    console = out()
    shown = table(
        f"{report.directory}: {len(report.directions)} directions", "direction", ">pairs", ">tokens"
    )
    for name, sizes in report.directions.items():
        shown.add_row(name, f"{sizes['pairs']:,}", amount(sizes["tokens"]))
    console.print(shown)
    for name, read in report.read.items():
        if read.faults:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(read.reasons.items()))
            console.print(f"left out of {name}: {read.faults} lines ({kinds})", markup=False, style="yellow")
            for fault in read.examples[:5]:
                console.print(f"  {fault}", markup=False, style="yellow")
    console.print(f"languages by index: {', '.join(report.languages)}", markup=False)
