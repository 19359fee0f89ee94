"""Pipelines beside data parallelism over slow links: PipeDream, 1F1B with a flush, GPipe, and torch's DDP.

Two and four ranks of one thread, each in a network namespace of its own, over links throttled to 100 Mbit/s
and 1 Gbit/s (tc tbf, made and removed here; skipped, with the reason, where that is not permitted). A model
of VGG's shape, nearly all weights in its dense layers, learns handwritten digits from fresh weights in each
way for the same time. The cut is the partitioner's, from a profile measured on this machine; what each way
will take is predicted by the tick simulator from the same profile and the rate of the link alone.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Bar, finish, options, resume
from benchmarks.pipelining.links import NotPermitted, namespaces
from mainspring.parallel.world import child_environment, usable_cores

CELLS = [(2, 100), (2, 1000), (4, 100), (4, 1000)]
"""(ranks, Mbit/s)"""
APART = 1.1
"""Predictions that differ by less than this factor say no order."""
ACCUMULATE = 4
"""Minibatches of an update of the synchronous pipelines."""


def plan(world: int, mbit: int, chain: Any) -> list[dict[str, Any]]:
    """The ways to train, with their cuts and predicted seconds a minibatch.

    Ranks share the cores: a rank computes at cores / ranks of the profile's speed where these are fewer.
    """
    from mainspring.parallel.pipedream import Layout, Op, orders
    from mainspring.planner.pipedream import Chain, Level, partition
    from mainspring.planner.ticks import simulate

    slower = max(1.0, world / usable_cores())
    nodes = tuple(
        n.model_copy(update={"forward": n.forward * slower, "backward": n.backward * slower})
        for n in chain.nodes
    )
    scaled, rate = Chain(nodes=nodes), mbit * 1e6 / 8
    weights = sum(n.parameter_bytes for n in nodes)
    reduce = 2 * (world - 1) / world * weights / rate
    forward, backward = (sum(getattr(n, way) for n in nodes) / 1e3 for way in ("forward", "backward"))
    ways: list[dict[str, Any]] = [
        {"name": "data parallel", "predicted": (forward + max(backward, reduce)) / world}
    ]
    for name, semantics in (("GPipe", "gpipe"), ("1F1B flush", "flush"), ("PipeDream", "stashing")):
        asynchronous = semantics == "stashing"
        cut = partition(scaled, [Level(world, rate)], straight=not asynchronous)
        layout: Layout = cut.layout
        unit = math.lcm(*layout.replicas) if asynchronous else ACCUMULATE
        accumulate = 1 if asynchronous else ACCUMULATE

        def seconds(op: Op, cut: Any = cut) -> float:
            part = cut.parts[op.stage]
            inside = nodes[part.first : part.last + 1]
            if op.kind == "U":
                many = part.replicas
                return 2 * (many - 1) / many * sum(n.parameter_bytes for n in inside) / rate
            return sum(n.forward if op.kind == "F" else n.backward for n in inside) / 1e3

        def transfer(op: Op, cut: Any = cut) -> float:
            node = cut.parts[op.stage].last if op.kind == "F" else cut.parts[op.stage].first - 1
            return nodes[node].activation_bytes / rate

        timeline = simulate(orders(layout, semantics, 12 * unit, accumulate), seconds, transfer)  # type: ignore[arg-type]
        steady = timeline.seconds_per_minibatch() if asynchronous else timeline.span / (12 * unit)
        ways.append(
            {
                "name": name,
                "semantics": semantics,
                "accumulate": accumulate,
                "unit": unit * (4 if asynchronous else 1),
                "parts": [[p.first, p.last, p.replicas] for p in cut.parts],
                "predicted": steady,
            }
        )
    return ways


def profiled(minibatches: int) -> Any:
    """The model's profile, with one thread."""
    import torch
    import torch.nn.functional as F

    from benchmarks.pipelining.rank import ROWS, batch, make_model
    from mainspring.planner.pipedream import profile

    torch.set_num_threads(1)
    model, (x, target) = make_model(), batch(0)
    return profile(
        model, lambda: F.cross_entropy(model(x), target), minibatches=minibatches, name="VGG-like", rows=ROWS
    )


def measure(world: int, mbit: int, seconds: float, chain: Any) -> list[dict[str, Any]]:
    """Rows of one number of ranks and one rate."""
    from benchmarks.pipelining.rank import ROWS

    ways = plan(world, mbit, chain)
    with tempfile.TemporaryDirectory() as folder, namespaces(world, mbit) as names:
        told = Path(folder) / "told.json"
        store = f"{folder}/store"
        told.write_text(json.dumps({"store": store, "world": world, "seconds": seconds, "ways": ways}))
        environment = {**child_environment(1), "GLOO_SOCKET_IFNAME": "eth0"}
        inside = [sys.executable, "-m", "benchmarks.pipelining.rank", str(told)]
        ranks = [
            subprocess.Popen(["ip", "netns", "exec", name, *inside, str(rank)], env=environment)
            for rank, name in enumerate(names)
        ]
        try:
            codes = [process.wait(timeout=60 + 20 * seconds) for process in ranks]
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        assert not any(codes), f"ranks ended with {codes}"
        seen = [json.loads(Path(f"{store}.{rank}.json").read_text()) for rank in range(world)]
    rows = []
    for way in ways:
        name = way["name"]
        last = [found[name] for found in seen]
        samples = last[0]["minibatches"] * ROWS
        losses = sorted(tuple(pair) for one in last for pair in one["losses"])
        tail = [loss for _, loss in losses[-max(1, len(losses) // 10) :]]
        rows.append(
            {
                "ranks": world,
                "mbit": mbit,
                "way": name,
                "cut": "-".join(str(part[2]) for part in way.get("parts", [])) or str(world),
                "ms a sample": 1e3 * last[0]["seconds"] / samples,
                "predicted": 1e3 * way["predicted"] / ROWS,
                "samples": samples,
                "seconds": last[0]["seconds"],
                "last loss": sum(tail) / len(tail),
                "curve": _thinned(losses),
            }
        )
        print({k: v for k, v in rows[-1].items() if k != "curve"}, flush=True)
    return rows


def _thinned(losses: list[tuple[Any, ...]], points: int = 60) -> list[list[float]]:
    """Means of neighbouring losses, at their last time."""
    size = max(1, len(losses) // points)
    groups = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [[round(g[-1][0], 3), round(sum(x for _, x in g) / len(g), 4)] for g in groups]


def agreeing(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Pairs of ways in the predicted order, and pairs whose predictions are apart."""
    right = total = 0
    for _, cell in itertools.groupby(rows, key=lambda row: (row["ranks"], row["mbit"])):
        for a, b in itertools.combinations(sorted(cell, key=lambda row: row["predicted"]), 2):
            if b["predicted"] > APART * a["predicted"]:
                total += 1
                right += a["ms a sample"] < b["ms a sample"]
    return right, total


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss over time of each way, a panel for each number of ranks and rate."""
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys((row["ranks"], row["mbit"]) for row in rows))
    figure = Figure(figsize=(4.2 * len(cells), 3), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        for row in rows:
            if (row["ranks"], row["mbit"]) == cell:
                axes.plot(*zip(*row["curve"], strict=True), label=row["way"], linewidth=1.3)
        axes.set_title(f"{cell[0]} ranks, {cell[1]} Mbit/s", loc="left", fontsize=10)
        axes.set_xlabel("seconds")
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Exit status 1 when a bar is missed."""
    arguments = options(__doc__ or "", parts=True)
    cells, seconds = (CELLS[:1], 2.0) if arguments.quick else (CELLS, 6.0)
    rows = []
    try:
        chain = profiled(5 if arguments.quick else 20)
        for world, mbit in cells:
            key = f"{world} ranks, {mbit} Mbit/s"
            rows += resume(
                arguments.parts, key, lambda world=world, mbit=mbit: measure(world, mbit, seconds, chain)
            )
    except NotPermitted as reason:
        print(f"pipedream: skipped: links cannot be throttled here: {reason}", flush=True)
        return 0
    by = {(row["ranks"], row["mbit"], row["way"]): row["ms a sample"] for row in rows}
    bars = [
        Bar(
            f"data parallel / PipeDream, time a sample, {world} ranks, {mbit} Mbit/s",
            by[world, mbit, "data parallel"] / by[world, mbit, "PipeDream"],
            3.0,
        )
        for world, mbit in cells
        if mbit == 100
    ]
    right, total = agreeing(rows)
    bars.append(Bar(f"of {total} pairs of ways, in the predicted order (part)", right / total, 1.0))
    if not arguments.quick:
        draw(rows, RESULTS / "pipedream.svg")
    return finish(
        "pipedream",
        title="Pipelines over slow links",
        rows=[{k: v for k, v in row.items() if k != "curve"} for row in rows],
        bars=bars,
        notes=[
            "Ranks of one thread in network namespaces, both directions of each link through tc tbf. The "
            "times are of one stretch of about 6 s each, filling and draining of the pipeline included; data "
            "parallel is torch's DistributedDataParallel.",
            f"Predictions within {APART - 1:.0%} of each other say no order. Four ranks share the cores of "
            "this machine, and the prediction is told so.",
            "All ways start from the same weights and use the same learning rate; their updates are not the "
            "same: data parallel and the synchronous pipelines average over several minibatches. Loss over "
            "time: benchmarks/results/pipedream.svg.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
