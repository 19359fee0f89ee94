"""`mainspring search`: index documents, query them, check an index, serve it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from mainspring.cli import search_heads, search_shards
from mainspring.cli.console import err, out, table, write_json
from mainspring.cli.options import AsJson
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.products.search import Hit, Index, Results
    from mainspring.products.search.ingest import Ingested, Progress

app = typer.Typer(help="Find documents by words and by meaning.", no_args_is_help=True)

Where = Annotated[Path, typer.Option("--index", help="The index.")]
Precision = Annotated[str, typer.Option(help="What the encoder reads in: fp32, int8 (sooner), ...")]
DEFAULT_INDEX = Path("search-index")
_SHOWN_FAULTS = 10


@app.command("index")
def index_(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Files, folders, patterns: text, Markdown, HTML, JSON lines, CSV, TSV, PDF.",
            show_default="the documentation of the installed Python packages",
        ),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="The index; made where absent.")] = DEFAULT_INDEX,
    language: Annotated[str, typer.Option(help="Language of most documents, of a new index.")] = "en",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Folder of the encoder of a new index; none: words alone.", show_default="all-MiniLM-L6-v2"
        ),
    ] = None,
    encode: Annotated[
        bool, typer.Option(help="Give vectors to what has none (else a later call does).")
    ] = True,
    limit_bytes: Annotated[
        int | None, typer.Option(help="Of the packages' documentation, stop after so many bytes of text.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring an index up to date with documents: what is new or changed is read, what is gone is deleted.

    Words can be searched as soon as reading ends; vectors follow, and Ctrl-C keeps those that are made.
    """
    from mainspring.products.search import Index
    from mainspring.products.search.encoder import DEFAULT
    from mainspring.products.search.ingest import ingest
    from mainspring.products.search.sources import files_of
    from mainspring.products.search.writer import STORE

    if paths:
        files_of(paths)  # refused before an index is made
    if (to / STORE).exists():
        if encoder is not None:
            raise UsageError(
                f"--encoder {encoder}: {to} exists already; index into another folder to change it"
            )
        index = Index.open(to)
    else:
        wanted = DEFAULT if encoder is None else None if encoder == "none" else encoder
        index = Index.create(to, language=language, encoder=wanted)
    with index, IngestProgress() as progress:
        _ = index.encoder  # one that cannot be loaded is told before anything is read
        done = ingest(index, paths or (), encode=encode, limit_bytes=limit_bytes, progress=progress)
        counts, missing = index.store.counts(), index.missing
    if as_json:
        report = done.report.to_dict()
        values = {name: value for name, value in vars(done).items() if name != "report"}
        write_json({"index": to, **values, "read": report, "holds": counts, "missing": missing})
    else:
        _show_ingest(to, done, counts, missing)


@app.command()
def query(
    text: Annotated[str, typer.Argument(metavar="QUERY", help="Words or a question.", show_default=False)],
    index: Where = DEFAULT_INDEX,
    top: Annotated[int, typer.Option(help="Documents to show.")] = 5,
    answers: Annotated[int, typer.Option(help="Answers to show, where something answers.")] = 1,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="FIELD=VALUE", help="What documents must have; repeatable."),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Compare words alone.")] = False,
    heads: search_heads.Heads_ = None,
    precision: Precision = "fp32",
    as_json: AsJson = False,
) -> None:
    """Find documents in an index, or in all shards of one."""
    from dataclasses import asdict

    from mainspring.products.search.shards import searched

    conditions = {}
    for given in filters or ():
        name, sign, value = given.partition("=")
        if not sign or not name:
            raise UsageError(f"--filter {given}: should be FIELD=VALUE, as in language=en")
        conditions[name] = int(value) if value.lstrip("-").isdigit() else value
    with searched(index, heads=heads, precision=precision) as opened:
        found = opened.search(text, top=top, answers=answers, filters=conditions, semantic=not words)
    if as_json:
        write_json(asdict(found))
    else:
        _show_results(found)


@app.command()
def check(
    index: Annotated[Path, typer.Argument(help="The index.")] = DEFAULT_INDEX,
    repair: Annotated[
        bool, typer.Option("--repair", help="Build what is damaged anew from the stored documents.")
    ] = False,
) -> None:
    """Verify every file of an index."""
    from mainspring.errors import SearchIndexError
    from mainspring.products.search import Index
    from mainspring.products.search import repair as mend
    from mainspring.products.search.check import remedy
    from mainspring.products.search.store import Store
    from mainspring.products.search.writer import STORE

    store = Store(index / STORE)
    store.close()
    console = out()
    if repair:
        for damage in mend(index):
            console.print(f"built anew: {damage.file} ({damage.reason})", markup=False)
        with Index.open(index) as opened:
            opened.encode()
    with Index.open(index, verify=False) as opened:
        found = opened.damages()
        if found:
            raise SearchIndexError(remedy(index, found))
        _show_counts(index, opened)


@app.command("serve")
def serve_(
    index: Annotated[Path, typer.Argument(help="The index.")] = DEFAULT_INDEX,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8010,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key that clients must send.", show_default="none")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Take no uploads and deletes.")] = False,
    remember: Annotated[
        bool, typer.Option(help="Keep past queries, to suggest those asked more than once.")
    ] = True,
    spelling: Annotated[
        bool, typer.Option(help="Ask whether another spelling was meant (speller: lexicon).")
    ] = True,
    phrases: Annotated[
        Path | None,
        typer.Option(
            help="Causal model that finishes what is typed (a run or an exported model).", show_default="none"
        ),
    ] = None,
    heads: search_heads.Heads_ = None,
    precision: Precision = "fp32",
) -> None:
    """Serve an index: an API in the shape of Azure AI Search, and a page to search with."""
    from mainspring.serve.search import run_search

    console = err()
    api_key = None
    if key_file is not None:
        try:
            api_key = key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--key-file {key_file}: cannot be read ({error})") from error
        if not api_key:
            raise UsageError(f"--key-file {key_file}: is empty")

    speller = None
    if spelling:
        from mainspring.products.spelling import Speller

        speller = Speller.load()

    model = None
    if phrases is not None:
        from mainspring.infer.engine import Engine
        from mainspring.products.suggest.phrases import CausalPhrases

        model = CausalPhrases(Engine.load(phrases))

    def ready(url: str) -> None:
        name = index.resolve().name
        console.print(
            f"serving {index} at {url} (page), {url}/indexes/{name}/docs/search (API); Ctrl-C stops",
            markup=False,
        )

    run_search(
        index,
        host,
        port,
        api_key=api_key,
        writable=not read_only,
        remember=remember,
        model=model,
        heads=heads,
        precision=precision,
        speller=speller,
        on_ready=ready,
    )
    console.print("stopped", markup=False)


app.command("split")(search_shards.split)
app.command("train")(search_heads.train)
app.command("tune")(search_heads.tune)
app.command("questions")(search_heads.questions)


class IngestProgress:
    """How far an ingest has come: a live line on a terminal, a plain one every few seconds elsewhere."""

    def __init__(self, every: float = 5.0) -> None:
        self._console, self._every = err(), every
        self._shown = time.monotonic()
        self._live = self._console.is_terminal
        columns = (
            TextColumn("{task.fields[stage]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rest]}"),
        )
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._live)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Take news of an ingest."""
        from mainspring.planner.units import amount, duration

        unit = "passages" if progress.stage == "encoding" else "files"
        total = "" if progress.total is None else f" of {progress.total:,}"
        rest = f"{progress.done:,}{total} {unit}, {amount(progress.rate)}/s"
        if progress.eta is not None:
            rest += f", ETA {duration(progress.eta)}"
        if self._live:
            if self._task is None:
                self._task = self._bar.add_task("", total=progress.total, stage=progress.stage, rest="")
            self._bar.update(
                self._task, total=progress.total, completed=progress.done, stage=progress.stage, rest=rest
            )
        elif time.monotonic() - self._shown >= self._every:
            self._shown = time.monotonic()
            self._console.print(f"{progress.stage}: {rest}", markup=False)


def _show_ingest(to: Path, done: Ingested, counts: dict[str, int], missing: str | None) -> None:
    from mainspring.planner.units import duration

    console = out()
    rate = done.passages / done.seconds if done.seconds else 0.0
    console.print(
        f"{to}: {done.added:,} documents added, {done.replaced:,} replaced, {done.unchanged:,} unchanged, "
        f"{done.deleted:,} deleted; {done.passages:,} passages in {duration(done.seconds)} ({rate:,.0f}/s)\n"
        f"it holds {counts['documents']:,} documents, {counts['passages']:,} passages, "
        f"{counts['encoded']:,} of them with vectors",
        markup=False,
    )
    if missing:
        console.print(f"note: {missing}", markup=False, style="yellow")
    if done.report.faults:
        console.print(f"left out: {done.report.faults:,} files or rows", markup=False, style="yellow")
        for fault in done.report.examples[:_SHOWN_FAULTS]:
            console.print(f"  {fault}", markup=False)


def _show_results(found: Results) -> None:
    from rich.text import Text

    from mainspring.planner.units import duration

    console = out()
    for answer in found.answers or ():
        said = {True: "yes: ", False: "no: ", None: ""}[answer.verdict]
        console.print(Text("answer: ", style="bold").append(said).append(answer.text, style="green"))
        console.print(Text(f"  from {answer.key}\n", style="dim"))
    for number, hit in enumerate(found.hits, 1):
        console.print(_hit_line(number, hit))
        for caption in hit.captions:
            text = Text("   ")
            at = 0
            for start, stop in caption.highlights:
                text.append(caption.text[at:start]).append(caption.text[start:stop], style="bold yellow")
                at = stop
            text.append(caption.text[at:])
            console.print(Text.assemble(*(Text(" ").join(text.split()),)))
        if hit.url:
            console.print(Text(f"   {hit.url}", style="dim"))
    console.print(
        f"{len(found.hits)} of {found.count} documents in {duration(found.seconds)}",
        markup=False,
        style="dim",
    )
    if found.lost:
        lost = ", ".join(found.lost)
        err().print(f"note: these results are partial; no answer from {lost}", markup=False, style="yellow")
    if found.missing:
        err().print(f"note: {found.missing}", markup=False, style="yellow")


def _hit_line(number: int, hit: Hit) -> object:
    from rich.text import Text

    relevance = "" if hit.relevance is None else f"  relevance {hit.relevance:.2f} of 4"
    return Text(f"{number}. ").append(hit.title or hit.key, style="bold").append(relevance, style="dim")


def _show_counts(index: Path, opened: Index) -> None:
    counts = opened.store.counts()
    shown = table(f"{index}: all checksums hold", "what", ">how many")
    for name, value in counts.items():
        shown.add_row("passages with vectors" if name == "encoded" else name, f"{value:,}")
    for language, value in opened.store.languages().items():
        shown.add_row(f"documents in {language}", f"{value:,}")
    out().print(shown)
