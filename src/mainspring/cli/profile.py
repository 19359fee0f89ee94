"""`mainspring profile`: measure a model part by part and cut it into the stages of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.console import err, out, table, write_json
from mainspring.cli.options import AsJson, Overrides
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.planner.pipedream import Chain, Cut, Level


def profile(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|PROFILE",
            help="A recipe whose network is measured, or a profile (JSON or a text graph) to cut anew.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", "--out", help="Directory for profile.json, graph.txt and profile.svg.", show_default=False
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a minibatch.")] = 1,
    minibatches: Annotated[int, typer.Option(min=1, help="Minibatches to measure.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads of a rank.")] = 1,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Cut it for so many workers; several levels as 8x4: 8 of a server, 4 servers.",
            show_default=False,
        ),
    ] = None,
    bandwidth: Annotated[
        str, typer.Option(help="Mbit/s between workers, of each level: 10000x1000.")
    ] = "1000",
    overlap: Annotated[
        bool, typer.Option("--overlap", help="All-reduces of replicas hide behind computing.")
    ] = False,
    straight: Annotated[bool, typer.Option("--straight", help="One replica a stage.")] = False,
    fewer: Annotated[bool, typer.Option("--fewer", help="Fewer workers are allowed.")] = False,
    memory: Annotated[
        float | None, typer.Option(help="GB of a worker for a stage in flight.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure each block of a model: times of both passes, bytes handed on, bytes of weights.

    With workers, the chain of blocks is cut into the stages of an asynchronous pipeline
    (PipeDream), with the least time for each minibatch.

    mainspring profile gpt2-tiny data.seq_len=128 --rows 4 --workers 4 --bandwidth 100 --to profiles/gpt2

    mainspring profile profiles/gpt2/profile.json --workers 8x4 --bandwidth 10000x1000 --straight
    """
    from mainspring.planner.pipedream import Chain, draw_profile, partition

    if Path(source).suffix in (".json", ".txt"):
        if overrides:
            raise UsageError(f"{source} is a profile, to which {overrides[0]} does not apply")
        chain = Chain.load(source)
    else:
        from mainspring.recipes import load
        from mainspring.recipes.profiling import profile_recipe

        recipe = load(source, overrides or ())
        chain = profile_recipe(recipe, rows=rows, minibatches=minibatches, threads=threads)
    cut = None
    if workers is not None:
        room = None if memory is None else memory * 1e9
        levels = _levels(workers, bandwidth)
        cut = partition(chain, levels, overlap=overlap, straight=straight, fewer=fewer, memory=room)
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        chain.save(to / "profile.json")
        graph = chain.to_graph(None if cut is None else cut.stage_of())
        (to / "graph.txt").write_text(graph, encoding="utf-8")
        draw_profile(chain, to / "profile.svg", cut)
        err().print(f"written to {to}", markup=False)
    if as_json:
        write_json({"profile": chain.model_dump(mode="json"), "cut": None if cut is None else _plain(cut)})
    else:
        show(chain, cut)


def show(chain: Chain, cut: Cut | None) -> None:
    """Print a profile, and its cut."""
    shown = table(
        f"{chain.model}: {chain.rows} rows a minibatch",
        *(["stage"] if cut else []),
        "node",
        ">forward",
        ">backward",
        ">hands on",
        ">weights",
    )
    stages = cut.stage_of() if cut else {}
    for i, node in enumerate(chain.nodes):
        shown.add_row(
            *([str(stages[i])] if cut else []),
            node.name,
            f"{node.forward:.2f} ms",
            f"{node.backward:.2f} ms",
            f"{node.activation_bytes / 2**20:,.2f} MiB",
            f"{node.parameter_bytes / 2**20:,.2f} MiB",
        )
    out().print(shown)
    if cut is not None:
        replicas = "-".join(str(part.replicas) for part in cut.parts)
        out().print(
            f"{len(cut.parts)} stages on {cut.layout.workers} workers ({replicas}): "
            f"{1e3 * cut.seconds:.2f} ms a minibatch; {cut.layout.noam} in flight for each input replica",
            markup=False,
        )


def _plain(cut: Cut) -> dict[str, object]:
    return {
        "stages": [
            {"first": p.first, "last": p.last, "replicas": p.replicas, "warmup": cut.layout.warmup(s)}
            for s, p in enumerate(cut.parts)
        ],
        "seconds_per_minibatch": cut.seconds,
        "noam": cut.layout.noam,
    }


def _levels(workers: str, bandwidth: str) -> list[Level]:
    from mainspring.planner.pipedream import Level

    try:
        units = [int(n) for n in workers.split("x")]
        rates = [float(n) * 1e6 / 8 for n in bandwidth.split("x")]
        return [Level(n, rate) for n, rate in zip(units, rates, strict=True)]
    except ValueError as error:
        raise UsageError(
            f"--workers {workers} and --bandwidth {bandwidth} should be as many numbers with x between them, "
            f"as in 8x4 and 10000x1000: {error}"
        ) from error
