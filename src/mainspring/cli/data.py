"""`mainspring data`: text into token shards, what is in them, and pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from mainspring.cli.console import err, out, table, write_json
from mainspring.cli.options import AsJson
from mainspring.cli.pairs import pairs

if TYPE_CHECKING:
    from mainspring.data import BuildReport, Progress

app = typer.Typer(help="Build token shards from text, and look into them.", no_args_is_help=True)


class Kind(StrEnum):
    """Kinds of tokenizer that can be trained."""

    bpe = "bpe"
    unigram = "unigram"
    wordpiece = "wordpiece"


class Format(StrEnum):
    """Formats of source files."""

    auto = "auto"
    text = "text"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"


class Unit(StrEnum):
    """What one document is in a text file."""

    file = "file"
    paragraph = "paragraph"
    line = "line"


@app.command()
def build(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files, directories, glob patterns, or embedded:docstrings and embedded:udhr; "
            "NAME=SOURCE gives one a name.",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Directory to write.", show_default=False)],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Use this tokenizer (a tokenizer.json or its directory) in place of training one."),
    ] = None,
    kind: Annotated[Kind, typer.Option(help="Kind of tokenizer to train.")] = Kind.bpe,
    vocab_size: Annotated[int, typer.Option(help="Entries of the tokenizer to train.")] = 8192,
    holdout: Annotated[float, typer.Option(help="Share of documents to hold out of training.")] = 0.02,
    file_format: Annotated[Format, typer.Option("--format", help="Format of the files.")] = Format.auto,
    text_field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    lang: Annotated[str | None, typer.Option(help="BCP 47 tag of the text's language.")] = None,
    documents: Annotated[Unit, typer.Option(help="What is one document in a text file.")] = Unit.file,
    limit_bytes: Annotated[
        int | None, typer.Option(help="Stop each source after so many bytes of text.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read text, train or load a tokenizer, and write content-addressed token shards with checksums.

    Malformed input is named with its file and line and left out; the rest is kept.
    """
    from mainspring.config import parse
    from mainspring.data.build import build_from
    from mainspring.data.config import BuildConfig

    config = parse(
        BuildConfig,
        {
            "sources": [
                {
                    "name": name,
                    "path": path,
                    "format": file_format.value,
                    "text_field": text_field,
                    "lang": lang,
                    "documents": documents.value,
                    "limit_bytes": limit_bytes,
                }
                for name, path in named_sources(sources)
            ],
            "tokenizer": tokenizer
            if tokenizer is not None
            else {"kind": kind.value, "vocab_size": vocab_size},
            "holdout": holdout,
        },
        source="data build",
    )
    with BuildProgress() as progress:
        report = build_from(config, to, progress=progress)
    for warning in report.warnings:
        err().print(f"note: {warning}", markup=False, style="yellow")
    if as_json:
        write_json(
            {
                "directory": report.directory,
                "documents": report.documents,
                "tokens": report.tokens,
                "bytes": report.bytes,
                "shards": report.shards,
                "vocab_size": report.vocab_size,
                "tokenizer_seconds": report.tokenizer_seconds,
                "seconds": report.seconds,
                "sources": {name: read.to_dict() for name, read in report.sources.items()},
            }
        )
    else:
        show_build(report)


@app.command()
def inspect(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `data build` wrote.", show_default=False)
    ],
    sample: Annotated[int, typer.Option(help="Show the beginnings of so many documents of each source.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Verify every checksum of a data directory and say what is in it."""
    from mainspring.data.dataset import TokenData
    from mainspring.planner.units import amount

    found = TokenData.open(directory, verify=True).describe(samples=sample)
    if as_json:
        write_json(found)
        return
    console = out()
    shown = table(
        f"{directory}: {found['shards']} shards, {amount(found['disk_bytes'], 'B')}, all checksums hold",
        "source",
        "split",
        ">documents",
        ">tokens",
        ">text",
        ">languages",
    )
    for name, source in found["sources"].items():
        for split in ("train", "holdout"):
            sizes = source[split]
            shown.add_row(
                name,
                split,
                f"{sizes['documents']:,}",
                amount(sizes["tokens"]),
                amount(sizes["bytes"], "B"),
                str(len(source["langs"])) if source["langs"] else "-",
            )
    console.print(shown)
    tokenizer = found["tokenizer"]
    console.print(
        f"\ntokenizer: {tokenizer['vocab_size']:,} entries, {tokenizer['hash'][:12]}, special: "
        f"{', '.join(f'{role} {token}' for role, token in tokenizer['special'].items())}",
        markup=False,
    )
    for name, read in found["read"].items():
        if read["faults"]:
            console.print(
                f"left out of {name} when it was built: {read['faults']} lines or files",
                markup=False,
                style="yellow",
            )
            for fault in read["examples"][:5]:
                line = "" if fault["line"] is None else f", line {fault['line']}"
                console.print(f"  {fault['file']}{line}: {fault['reason']}", markup=False)
    for document in found["samples"]:
        console.rule(
            f"{document['source']}, document {document['document']}, {document['tokens']} tokens",
            style="dim",
            align="left",
        )
        console.print(document["text"], markup=False)


app.command()(pairs)


class BuildProgress:
    """Shows how far a build has come: a live line on a terminal, nothing elsewhere. Use it as a context."""

    def __init__(self) -> None:
        self._status = err().status("reading")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, progress: Progress) -> None:
        """Take news from `mainspring.data.build`."""
        from mainspring.planner.units import amount, duration

        read = (
            f"{progress.documents:,} documents, {amount(progress.bytes, 'B')}, {duration(progress.seconds)}"
        )
        stages = {
            "sample": f"reading {progress.source}: {read}",
            "tokenizer": f"training the tokenizer on {amount(progress.bytes, 'B')}",
            "encode": f"encoding {progress.source}: {read}, {amount(progress.tokens)} tokens",
        }
        self._status.update(stages.get(progress.stage, progress.stage))


def show_build(report: BuildReport) -> None:
    """Print what a build read, left out and wrote."""
    from mainspring.planner.units import amount, duration

    console = out()
    shown = table(f"{report.directory}: {report.shards} shards", "source", ">documents", ">text", ">left out")
    for name, read in report.sources.items():
        shown.add_row(name, f"{read.documents:,}", amount(read.bytes, "B"), str(read.faults))
    console.print(shown)
    for read in report.sources.values():
        for fault in read.examples[:5]:
            console.print(f"  left out: {fault}", markup=False, style="yellow")
    trained = (
        f"; tokenizer trained in {duration(report.tokenizer_seconds)}" if report.tokenizer_seconds else ""
    )
    console.print(
        f"{amount(report.tokens['train'])} tokens to train on and {amount(report.tokens['holdout'])} held "
        f"out ({report.documents['holdout']:,} documents), {report.vocab_size:,} vocabulary entries, "
        f"in {duration(report.seconds)} ({report.bytes_per_second / 1e6:.1f} MB/s){trained}",
        markup=False,
    )


def named_sources(sources: Sequence[str]) -> list[tuple[str, str]]:
    """A name for each source: the one given (`NAME=SOURCE`), else the last part of its path; made distinct.

    >>> named_sources(["embedded:udhr", "news=a/b.txt", "c/b.jsonl.gz", "d/b.txt"])
    [('udhr', 'embedded:udhr'), ('news', 'a/b.txt'), ('b', 'c/b.jsonl.gz'), ('b-2', 'd/b.txt')]
    """
    found: list[tuple[str, str]] = []
    for source in sources:
        given = re.match(r"([A-Za-z0-9][A-Za-z0-9._+-]*)=(.+)", source)
        path = given[2] if given else source
        last = path.removeprefix("embedded:").rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        stem = given[1] if given else re.sub(r"[^A-Za-z0-9._+-]+", "-", last).strip("-._+") or "text"
        name, number = stem, 1
        while name in {n for n, _ in found}:
            number += 1
            name = f"{stem}-{number}"
        found.append((name, path))
    return found
