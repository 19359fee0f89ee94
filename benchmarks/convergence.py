"""Convergence: signs at equal steps, Adasum as workers grow, dropped layers at equal time.

Small language models over bytes, several seeds. Optimizers that send signs run on two ranks; Adasum's
workers, 1 to 16, are played in one process; dropping layers is one process. What is measured is the direction
of a claim at a small scale, and no figure of a cluster.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from functools import partial
from typing import Any

import torch

from benchmarks.communicating.rank import text
from benchmarks.communicating.ways import JOINED, Size
from benchmarks.communication import TEXT, curves, published, smoothed, steps_to
from benchmarks.converging import adasum
from benchmarks.converging.adasum import Race
from benchmarks.converging.dropping import Run, curve, seconds_to
from benchmarks.harness import Bar, finish, options, resume

SEEDS = (0, 1, 2)
SIGNS = {
    "1-bit Adam": "Adam, fp32 all-reduce",
    "0/1 Adam": "Adam, fp32 all-reduce",
    "1-bit LAMB": "LAMB, fp32 all-reduce",
}
"""Each beside what it stands in for."""
SIZES = {"full": Size(64, 2, 600, 0, 90, rows=8), "quick": Size(32, 1, 200, 0, 90, rows=4)}
REAL = {"full": Size(64, 2, 200, 0, 30), "quick": Size(32, 1, 40, 0, 6)}
"""Of Adasum on ranks that are processes."""
RACES = {"full": Race(64, 2, 200), "quick": Race(32, 1, 40)}
WORKERS = {"full": (1, 2, 4, 8, 16), "quick": (1, 4)}
DROPS = {"full": Run(128, 12, 600, 20), "quick": Run(32, 4, 40, 4)}


def race(race: Race, workers: tuple[int, ...], seed: int) -> list[dict[str, Any]]:
    """Steps until the loss that one worker ends with, for SGD and Adam (in two processes), each way of
    joining."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(race_of, [(kind, race, workers, seed) for kind in adasum.RATES], chunksize=1)
    return [row for rows in found for row in rows]


def race_of(kind: str, race: Race, workers: tuple[int, ...], seed: int) -> list[dict[str, Any]]:
    """The same of one optimizer."""
    torch.set_num_threads(1)
    corpus = text(str(TEXT) if TEXT.exists() else "")
    alone = smoothed(adasum.losses(race, corpus, kind, "mean", 1, seed), adasum.SMOOTH)
    target = min(alone[: race.steps * 3 // 4])
    rows = []
    for count in workers:
        for way in adasum.WAYS if count > 1 else ("mean",):
            losses = adasum.losses(race, corpus, kind, way, count, seed, target)
            steps = steps_to(losses, target, adasum.SMOOTH)
            rows.append({"optimizer": kind, "workers": count, "joined": way, "seed": seed, "steps": steps})
            print(rows[-1], flush=True)
    return rows


def real(size: Size, seed: int) -> list[dict[str, Any]]:
    """Steps of 4 ranks until the loss that the mean has after three quarters of the steps."""
    found = {
        one["way"]: smoothed(one["losses"], adasum.SMOOTH) for one in curves(seed, size, list(JOINED), 4)
    }
    target = min(found["Adam, mean"][: size.steps * 3 // 4])
    steps = {way: steps_to(losses, target, 1) for way, losses in found.items()}
    return [
        {
            "optimizer": "Adam",
            "workers": "4 processes",
            "joined": way.split(", ")[1],
            "seed": seed,
            "steps": n,
        }
        for way, n in steps.items()
    ]


def drop(run: Run, seed: int) -> list[dict[str, Any]]:
    """Curves of both sides."""
    corpus = text(str(TEXT) if TEXT.exists() else "")
    return [
        {"dropped": dropped, "seed": seed, "curve": curve(run, corpus, dropped, seed)}
        for dropped in (False, True)
    ]


def main() -> int:
    """Exit status 1 when a bar is missed."""
    arguments = options(__doc__ or "", parts=True)
    torch.set_num_threads(1)
    which = "quick" if arguments.quick else "full"
    size, seeds = SIZES[which], SEEDS[:2] if arguments.quick else SEEDS
    followed: list[dict[str, Any]] = []
    raced: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for seed in seeds:
        for way in sorted({*SIGNS, *SIGNS.values()}):
            key = f"{way}, {which}, seed {seed}"
            followed += resume(arguments.parts, key, partial(curves, seed, size, [way]))
        raced += resume(
            arguments.parts, f"adasum {which} {seed}", partial(race, RACES[which], WORKERS[which], seed)
        )
        raced += resume(arguments.parts, f"ranks {which} {seed}", partial(real, REAL[which], seed))
        dropped += resume(arguments.parts, f"drop {which} {seed}", partial(drop, DROPS[which], seed))
    rows, bars = at_equal_steps(followed, size)
    more, times = at_equal_time(dropped)
    raced = growing(raced, RACES[which].steps)
    return finish(
        "convergence",
        title="Convergence with fewer bytes and fewer layers",
        rows=[*rows, *raced, *more],
        bars=[*bars, *fewer(raced, RACES[which].steps), *times],
        notes=[
            f"{len(seeds)} seeds. Signs: two ranks of {size.rows} rows of 64 bytes, {size.steps} steps, the "
            f"variance frozen after {size.freeze}; the last loss is a running mean, and a bar says how far "
            "its mean over seeds lies above the other's, in deviations of that.",
            "Adasum: median steps until the loss that one worker has after three quarters of the steps, at "
            "one worker's learning rate; workers see other text, so that their number is that of batches. On "
            "processes: until the loss that their mean has after three quarters of the steps.",
            "Dropped layers: seconds of training until the loss, on held-out text, that all layers end with "
            f"({DROPS[which].layers} layers, floor 0.5, decay 100 / steps).",
        ],
        arguments=arguments,
    )


def at_equal_steps(followed: list[dict[str, Any]], size: Size) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Last losses, how far each is from what it stands in for, and the bytes of a run."""
    window = max(5, size.steps // 20)
    final: dict[str, list[float]] = {}
    sent: dict[str, float] = {}
    for one in followed:
        final.setdefault(one["way"], []).append(smoothed(one["losses"], window)[-1])
        sent[one["way"]] = one["bytes"] / 1e6
    rows = [
        {
            "what": "signs",
            "way": way,
            "last loss": statistics.mean(ends),
            "deviation": statistics.stdev(ends),
            "MB of a run": sent[way],
        }
        for way, ends in final.items()
    ]
    bars = []
    for way, other in SIGNS.items():
        worse = statistics.mean(final[way]) - statistics.mean(final[other])
        name = f"last loss, {way} above {other.split(',')[0]}, in its deviations"
        bars.append(Bar(name, worse / statistics.stdev(final[other]), 1.0, at_most=True))
        bars.append(
            Bar(f"bytes of a run, 16 bits / {way}", sent[other] / 2 / sent[way], 0.95 * published(size))
        )
    return rows, bars


def growing(raced: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Median steps of seeds; None where one did not get there."""
    found: dict[tuple[str, int | str, str], list[int | None]] = {}
    for one in raced:
        found.setdefault((one["optimizer"], one["workers"], one["joined"]), []).append(one["steps"])
    rows: list[dict[str, Any]] = []
    for (optimizer, workers, joined), steps in found.items():
        known = [s for s in steps if s is not None]
        row = {"what": "Adasum", "optimizer": optimizer, "workers": workers, "joined": joined}
        rows.append(row | {"steps": statistics.median(known) if len(known) == len(steps) else f"over {most}"})
    return rows


def fewer(rows: list[dict[str, Any]], most: int) -> list[Bar]:
    """Steps that the most workers take, joined by Adasum, beside those that their mean takes."""
    count = max(row["workers"] for row in rows if isinstance(row["workers"], int))

    def steps(kind: str, way: str) -> float:
        found = (
            r["steps"] for r in rows if (r["optimizer"], r["workers"], r["joined"]) == (kind, count, way)
        )
        known = next(found)
        return most if isinstance(known, str) else float(known)

    return [
        Bar(
            f"steps of {count} workers, Adasum / mean, {kind}",
            steps(kind, "Adasum") / steps(kind, "mean"),
            1,
            True,
        )
        for kind in adasum.RATES
    ]


def at_equal_time(dropped: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Time to the loss that all layers end with, and the loss at the end."""
    of = {(one["seed"], one["dropped"]): one["curve"] for one in dropped}
    ratios, rows = [], []
    for seed in sorted({seed for seed, _ in of}):
        whole, some = of[seed, False], of[seed, True]
        target = whole[-1][1]
        ratios.append(min(seconds_to(some, target) / whole[-1][0], 99.0))  # 99: it never got there
        row = {"what": "dropped layers", "seed": seed, "seconds, all": whole[-1][0]}
        row |= {"seconds, dropped": some[-1][0], "loss, all": target, "loss, dropped": some[-1][1]}
        rows.append(row | {"time to the loss of all layers": ratios[-1]})
    for look, (seconds, loss) in enumerate(means(of, False)):
        row = {"what": "curve of dropped layers", "part of the run": (look + 1) / len(of[0, False])}
        row |= {"seconds, all": seconds, "loss, all": loss}
        seconds, loss = means(of, True)[look]
        rows.append(row | {"seconds, dropped": seconds, "loss, dropped": loss})
    share = statistics.mean(of[s, True][-1][0] / of[s, False][-1][0] for s in {seed for seed, _ in of})
    return rows, [
        Bar("seconds of as many steps, dropped / all", share, 0.85, at_most=True),
        Bar("time to the loss of all layers, dropped / all", statistics.median(ratios), 1.0, at_most=True),
    ]


def means(of: dict[tuple[int, bool], list[list[float]]], dropped: bool) -> list[list[float]]:
    """The curve of one side, over seeds."""
    seeds = [curve for (_, some), curve in of.items() if some == dropped]
    return [
        [statistics.mean(values) for values in zip(*points, strict=True)]
        for points in zip(*seeds, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
