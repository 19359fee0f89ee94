"""`mainspring search train | tune | questions`: what is trained or made ahead of searching."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring.cli.console import err, out, table, write_json
from mainspring.cli.options import AsJson, Overrides
from mainspring.errors import DataError

if TYPE_CHECKING:
    from mainspring.recipes.search.training import Progress

RESULTS = "results.json"
"""In a run's folder: what was tuned and measured, so that it need not be again."""
EVERY = 5.0
"""Seconds between lines of progress."""
DEFAULT_INDEX = Path("search-index")
Heads_ = Annotated[
    Path | None,
    typer.Option("--heads", help="Folder of trained heads.", show_default="the package's, if it has some"),
]
Index_ = Annotated[Path, typer.Argument(metavar="[INDEX]", help="The index.")]


def train(
    overrides: Overrides = None,
    data: Annotated[
        Path, typer.Option(help="Folder that has understanding/boolq and understanding/xquad.")
    ] = Path("data"),
    to: Annotated[Path, typer.Option("--to", help="Folder of the run and of the heads.")] = Path("heads"),
    encoder: Annotated[
        str | None, typer.Option(help="Folder of the encoder.", show_default="all-MiniLM-L6-v2")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Also measure the heads on what is held out.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train heads over an encoder: relevance, answers, yes or no, highlights.

    mainspring search train --data DATA --to heads examples.boolq=2000

    A run that is stopped goes on where it was when the same command is given again.
    """
    from mainspring.config import load_toml
    from mainspring.finetune.reader import Reader
    from mainspring.finetune.text_reader import TextReader
    from mainspring.products.search import heads
    from mainspring.products.search.encoder import ModelEncoder
    from mainspring.products.search.fit import of_pairs
    from mainspring.recipes.search import training, tuning
    from mainspring.recipes.search.curves import AnswerCurve, VerdictCurve
    from mainspring.recipes.search.kept import kept
    from mainspring.recipes.search.recipe import HeadsRecipe

    console = err()
    recipe = load_toml(HeadsRecipe, training.RECIPES / "minilm.toml", overrides or ())
    loaded = ModelEncoder.load(encoder)
    reader = TextReader(Reader(loaded.model, recipe.reader, seed=recipe.seed), loaded.tokenizer)
    training.train(reader, recipe, data, to, _Lines())

    def tell(text: str) -> None:
        console.print(text, markup=False)

    results = to / RESULTS

    def worked_out(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        tell(name)
        return kept(results, name, compute)

    answer = AnswerCurve(
        **worked_out("answer curve", lambda: tuning.answer_curve(reader, recipe, data).model_dump())
    )
    verdict = VerdictCurve(
        **worked_out("verdict curve", lambda: tuning.verdict_curve(reader, recipe, data).model_dump())
    )

    def ranker() -> dict[str, Any]:
        def encoded(done: int) -> None:
            if done % 64 == 0:
                tell(f"ranker: {done:,} passages encoded")

        curve, calibration = of_pairs(to / "ranking", loaded, tuning.ranked(recipe, data), encoded)
        return {"curve": curve.model_dump(), "calibration": calibration}

    ranking = worked_out("ranker curve", ranker)
    wanted = tuning.measurements(reader, answer, verdict, data) if measure else {}
    metrics = {name: worked_out(name, compute) for name, compute in wanted.items()}
    settings = heads.HeadsSettings(
        encoder=loaded.name,
        reader=recipe.reader,
        ranker=heads.RankerCurve(**ranking["curve"]),
        answer=answer,
        verdict=verdict,
        recipe=recipe.model_dump(mode="json"),
        data=tuning.DATA,
        metrics={"ranker": ranking["calibration"], **metrics},
    )
    heads.save(to, reader.reader, settings)
    if as_json:
        write_json({"heads": to, "answer": answer.model_dump(), "verdict": verdict.model_dump(), **metrics})
        return
    if metrics:
        shown = table(f"{to}: measured on what was held out", "what", "result")
        for name, values in metrics.items():
            text = ", ".join(
                f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
            )
            shown.add_row(name, text)
        out().print(shown)
    out().print(f"heads: {to}; mainspring search query QUERY --heads {to} answers with them", markup=False)


def tune(
    judgements: Annotated[
        Path,
        typer.Argument(
            metavar="CLICKS",
            help='JSON lines, each {"query": ..., "key": ...}: a document that served a query.',
            show_default=False,
        ),
    ],
    index: Annotated[Path, typer.Option("--index", help="The index.")] = DEFAULT_INDEX,
    as_json: AsJson = False,
) -> None:
    """Fit an index's ranker to what people chose.

    The curve is kept in the index and used from the next opening on.
    """
    from mainspring.products.search import Index
    from mainspring.products.search.fit import calibration_error, features, fitted

    chosen: dict[str, list[str]] = {}
    for number, line in enumerate(_read(judgements).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            chosen.setdefault(row["query"], []).append(row["key"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{judgements}, line {number}: should be {{"query": ..., "key": ...}} ({error!r})'
            ) from error
    with Index.open(index) as opened:
        judged = features(opened, chosen)
        curve = fitted(judged)
        before = opened.curve
        errors = [calibration_error(judged, c) for c in (before, curve)]
        opened.set_curve(curve)
    if as_json:
        write_json({"curve": curve.model_dump(), "calibration_error": errors[1], "before": errors[0]})
        return
    out().print(
        f"{index}: relevance follows {len(set(judged.query.tolist()))} queries; calibration error "
        f"{errors[0]:.3f} before, {errors[1]:.3f} now",
        markup=False,
    )


def questions(
    index: Index_ = DEFAULT_INDEX,
    most: Annotated[int | None, typer.Option(min=1, help="Passages to look at.", show_default="all")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew.")] = False,
    heads: Heads_ = None,
    as_json: AsJson = False,
) -> None:
    """Make the questions that People Also Ask shows, each answered back by the heads.

    What is done is kept when this is stopped; the next call goes on. A server that runs takes them in when it
    is started anew.
    """
    from mainspring.planner.units import duration
    from mainspring.products.search import Index
    from mainspring.products.search.also_asked import make

    console, began, shown = err(), time.monotonic(), [time.monotonic()]

    def tell(done: int, total: int) -> None:
        now = time.monotonic()
        if now - shown[0] >= EVERY and done:
            shown[0] = now
            rate = done / (now - began)
            eta = duration((total - done) / rate)
            console.print(
                f"questions: {done:,} of {total:,} passages, {rate:,.0f}/s, ETA {eta}", markup=False
            )

    with Index.open(index, heads=heads) as opened:
        made = make(opened, most=most, fresh=fresh, progress=tell)
    if as_json:
        write_json({"index": index, **made._asdict()})
        return
    out().print(
        f"{index}: {made.kept:,} questions of {made.passages:,} passages ({made.proposed:,} proposed, "
        f"{made.answered:,} answered back)",
        markup=False,
    )


class _Lines:
    """Progress of training, a line every few seconds."""

    def __init__(self) -> None:
        self._console, self._shown = err(), time.monotonic()

    def __call__(self, progress: Progress) -> None:
        from mainspring.planner.units import amount, duration

        if time.monotonic() - self._shown < EVERY and progress.done < progress.total:
            return
        self._shown = time.monotonic()
        unit = "tokens" if progress.stage == "reading" else "steps"
        parts = [f"{progress.stage}: {progress.done:,} of {progress.total:,} {unit}"]
        parts.append(f"{amount(progress.rate)}/s")
        if progress.eta is not None:
            parts.append(f"ETA {duration(progress.eta)}")
        parts += [f"{name} {value:.3f}" for name, value in progress.losses.items()]
        self._console.print(", ".join(parts), markup=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
