"""Pictures of a profile and of a schedule, drawn by matplotlib into a file (SVG, PNG, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mainspring.errors import require
from mainspring.planner.pipedream.chain import Chain
from mainspring.planner.pipedream.partition import Cut
from mainspring.planner.ticks import Timeline

_COLOURS = {"F": "#4c78a8", "B": "#54a24b", "W": "#e8b04a", "U": "#333333"}


def draw_profile(chain: Chain, path: str | Path, cut: Cut | None = None) -> None:
    """Draw times, activations and weights of the nodes, with the borders of the stages of a cut.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _figure(max(6.0, 0.28 * len(chain.nodes)), 5.4)
    axes = figure.subplots(3, 1, sharex=True)
    places = range(len(chain.nodes))
    forward = [node.forward for node in chain.nodes]
    axes[0].bar(places, forward, color=_COLOURS["F"], label="forward")
    axes[0].bar(
        places, [n.backward for n in chain.nodes], bottom=forward, color=_COLOURS["B"], label="backward"
    )
    axes[0].set_ylabel("ms")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].bar(places, [n.activation_bytes / 2**20 for n in chain.nodes], color="#8f8f8f")
    axes[1].set_ylabel("activations, MiB")
    axes[2].bar(places, [n.parameter_bytes / 2**20 for n in chain.nodes], color="#8f8f8f")
    axes[2].set_ylabel("weights, MiB")
    axes[2].set_xticks(list(places), [n.name for n in chain.nodes], rotation=90, fontsize=6)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        for part in cut.parts[:-1] if cut is not None else ():
            one.axvline(part.last + 0.5, color="#d62728", linewidth=1)
    for part in cut.parts if cut is not None else ():
        axes[0].text(
            (part.first + part.last) / 2,
            1.02,
            f"{part.replicas}x",
            transform=axes[0].get_xaxis_transform(),
            ha="center",
            fontsize=8,
            color="#d62728",
        )
    axes[0].set_title(f"{chain.model or 'profile'}: {chain.rows} rows a minibatch", loc="left", pad=14)
    _save(figure, path)


def draw_schedule(timelines: Sequence[tuple[str, Timeline]], path: str | Path) -> None:
    """Draw schedules above one another: a row a rank, minibatches by their numbers, updates as dark lines.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    ranks = sum(timeline.ranks + 1.2 for _, timeline in timelines)
    span = max(timeline.span for _, timeline in timelines)
    figure = _figure(9.0, 0.33 * ranks + 0.5)
    all_axes = figure.subplots(
        len(timelines),
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [timeline.ranks for _, timeline in timelines]},
    )
    for axes, (title, timeline) in zip(all_axes[:, 0], timelines, strict=True):
        for event in timeline.events:
            kind, width = event.op.kind, event.end - event.start
            if kind == "U":
                axes.plot(
                    [event.end, event.end],
                    [event.rank - 0.45, event.rank + 0.45],
                    color=_COLOURS["U"],
                    linewidth=1.4,
                )
                continue
            axes.barh(
                event.rank, width, left=event.start, height=0.84, color=_COLOURS[kind], edgecolor="white"
            )
            if width > span / 150:
                axes.text(
                    event.start + width / 2,
                    event.rank,
                    str(event.op.batch),
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white",
                )
        axes.set_ylim(timeline.ranks - 0.4, -0.6)
        axes.set_xlim(0, span)
        axes.set_yticks(range(timeline.ranks), [f"rank {rank}" for rank in range(timeline.ranks)], fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(f"{title}: ranks idle {timeline.idle:.0%} of the time", loc="left", fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    require("matplotlib", "plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: str | Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "mainspring", "svg.fonttype": "none"}):
        metadata = {"Date": None} if Path(path).suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)
