"""`mainspring evaluate`: bits per byte and perplexity on held-out text, beside baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.console import err, out, table, write_json
from mainspring.cli.options import AsJson
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.data.dataset import TokenData
    from mainspring.evaluate.comparison import Comparison


def evaluate(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", show_default=False, help="Run, checkpoint or exported model (folder)."
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Data directory; a run's own where left out.")] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens in a row; the run's where left out, else as many as the model has positions."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Score about so many tokens; all where left out.")
    ] = None,
    order: Annotated[int, typer.Option(min=1, max=9, help="Longest n-gram of the Kneser-Ney baseline.")] = 5,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also count unigram and Kneser-Ney models.")
    ] = True,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score a language model on held-out text: every token once, beside n-gram baselines on the same tokens.

    The result of a run on its own data is kept in RUN/evaluation.json. A masked language model is scored by
    its own objective instead.
    """
    from mainspring.data.dataset import TokenData
    from mainspring.evaluate.comparison import compare
    from mainspring.infer.engine import Engine
    from mainspring.train.run import Run

    run = Run(path) if (path / "recipe.toml").is_file() else None
    recipe = run.read_recipe() if run is not None else None
    where = data if data is not None else Path(recipe.data.path) if recipe is not None else None
    if where is None:
        raise UsageError(f"{path} has no recipe.toml, so it names no data; say which with --data DIR")
    if recipe is not None and recipe.objective.kind != "clm":
        _masked(path, TokenData.open(where), seq_len or recipe.data.seq_len, max_tokens or 0, as_json)
        return
    engine = Engine.load(path, device)
    engine.check_writes()
    length = seq_len or (recipe.data.seq_len if recipe is not None else engine.max_positions or 1024)
    with err().status("scoring") as status:
        result = compare(
            engine,
            TokenData.open(where),
            seq_len=length,
            order=order,
            max_tokens=max_tokens,
            with_baselines=baselines,
            progress=lambda n: status.update(f"scored {n:,} tokens"),
        )
    if run is not None and data is None and max_tokens is None and baselines:
        run.write_json(run.evaluation, result.as_dict())
    if as_json:
        write_json(result.as_dict())
    else:
        show_comparison(result)


def _masked(path: Path, data: TokenData, seq_len: int, max_tokens: int, as_json: bool) -> None:
    """Score a run that does not predict from left to right by its own objective."""
    from dataclasses import asdict

    from mainspring.evaluate.objective import score_run
    from mainspring.train.source import checkpoint_of

    run, checkpoint = checkpoint_of(path)
    score = score_run(run, checkpoint, data=data, seq_len=seq_len, max_tokens=max_tokens)
    if as_json:
        write_json(asdict(score))
        return
    shown = table("Held-out text", "step", ">loss (nats)", ">perplexity", ">predicted tokens")
    shown.add_row(str(score.step), f"{score.loss:.4f}", f"{score.perplexity:.2f}", f"{score.tokens:,}")
    out().print(shown)


def show_comparison(result: Comparison) -> None:
    """Print a comparison as a table with its verdict."""
    from mainspring.evaluate.comparison import title

    shown = table("Held-out text", "model", ">bits per byte", ">perplexity", ">tokens", ">bytes")
    for name, score in {result.name: result.model, **result.baselines}.items():
        own = name == result.name
        shown.add_row(
            name if own else title(name),
            f"{score.bits_per_byte:.4f}",
            f"{score.perplexity:.2f}",
            f"{score.tokens:,}",
            f"{score.bytes:,}",
            style="bold" if own else "",
        )
    out().print(shown)
    if result.verdict:
        out().print(result.verdict, markup=False)
