"""Fewer bytes on slow links: optimizers that send signs beside all-reduces in fp32 and 16 bits and PowerSGD.

Two and four ranks of one thread train a language model over bytes. A step is timed over links of 100
Mbit/s and 1 Gbit/s (network namespaces and tc tbf, made and removed here; skipped, with the reason, where
that is not permitted) and unthrottled, in the warm-up and after it. The loss is followed over a whole run of
3 seeds without a throttle, since what is computed does not depend on the link; the time to a target loss over
a link is its steps times their seconds there. Bytes are what `comm` counted.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.communicating.ways import FULL, QUICK, SEQ, WAYS, Size
from benchmarks.harness import Bar, finish, options, resume
from benchmarks.pipelining.links import NotPermitted, namespaces
from mainspring.parallel.world import child_environment

CELLS = [(2, 100), (2, 1000), (2, 0), (4, 100), (4, 1000), (4, 0)]
"""(ranks, Mbit/s; 0 without a throttle)"""
SEEDS = (0, 1, 2)
TEXT = Path(__file__).parents[2] / "shared/data/lm/tinyshakespeare/input.txt.gz"
FP32, BF16 = "Adam, fp32 all-reduce (DDP)", "Adam, bf16 all-reduce (DDP)"
FP16, POWER = "Adam, fp16 hook (DDP)", "Adam, PowerSGD rank 4 (DDP)"
LAMB, SIGNS_OF_LAMB = "LAMB, fp32 all-reduce", "1-bit LAMB"
COMPARED = [FP32, "Adam, fp32 all-reduce", FP16, POWER, "1-bit Adam"]
"""What the bars are about."""
FOLLOWED = [FP32, FP16, POWER, "1-bit Adam"]
"""Whose losses are followed: our Adam computes what DDP's does."""


@contextlib.contextmanager
def links(ranks: int, mbit: int) -> Iterator[list[list[str]]]:
    """What goes before each rank's command."""
    if not mbit:
        yield [[] for _ in range(ranks)]
        return
    with namespaces(ranks, mbit) as names:
        yield [["ip", "netns", "exec", name] for name in names]


def start(world: int, mbit: int, size: Size, ways: list[str], *, follow: bool, seed: int) -> list[Any]:
    """Run all ranks and return what each has seen."""
    with tempfile.TemporaryDirectory() as folder, links(world, mbit) as before:
        told = Path(folder) / "told.json"
        store = f"{folder}/store"
        content = {"store": store, "world": world, "size": asdict(size), "ways": ways, "follow": follow}
        content |= {"seed": seed, "text": str(TEXT) if TEXT.exists() else ""}
        told.write_text(json.dumps(content), encoding="utf-8")
        environment = {**child_environment(1), **({"GLOO_SOCKET_IFNAME": "eth0"} if mbit else {})}
        inside = [sys.executable, "-m", "benchmarks.communicating.rank", str(told)]
        processes = [
            subprocess.Popen([*prefix, *inside, str(rank)], env=environment)
            for rank, prefix in enumerate(before)
        ]
        try:
            codes = [process.wait(timeout=1800) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert not any(codes), f"ranks ended with {codes}"
        return [json.loads(Path(f"{store}.{rank}.json").read_text()) for rank in range(world)]


def times(world: int, mbit: int, size: Size, ways: list[str]) -> list[dict[str, Any]]:
    """Rows of one number of ranks and one rate; the slowest rank's seconds, the mean of the bytes."""
    seen = start(world, mbit, size, ways, follow=False, seed=0)
    rows = []
    for way in ways:
        ranks = [found[way] for found in seen]
        row: dict[str, Any] = {
            "ranks": world,
            "link": f"{mbit} Mbit/s" if mbit else "unthrottled",
            "way": way,
        }
        row |= {key: max(r[key] for r in ranks) for key in ("warm-up seconds", "seconds")}
        row |= {f"MB {k}": statistics.mean(r[f] for r in ranks) / 1e6 for k, f in _BYTES if ranks[0][f]}
        rows.append(row)
        print(row, flush=True)
    return rows


_BYTES = (("warm-up", "warm-up bytes"), ("a step", "bytes"))


def curves(seed: int, size: Size, ways: list[str], world: int = 2) -> list[dict[str, Any]]:
    """Losses of a run without a throttle, of each way."""
    seen = start(world, 0, size, ways, follow=True, seed=seed)
    return [{"way": way, "seed": seed, **seen[0][way]} for way in ways]


def smoothed(losses: list[float], window: int) -> list[float]:
    """Running means."""
    return [statistics.mean(losses[max(0, i - window + 1) : i + 1]) for i in range(len(losses))]


def steps_to(losses: list[float], target: float, window: int) -> int | None:
    """Steps until the running mean is at the target."""
    found = (i + 1 for i, loss in enumerate(smoothed(losses, window)) if loss <= target)
    return next(found, None)


def seconds_to(steps: int | None, size: Size, row: dict[str, Any]) -> float:
    """Over a link: those in the warm-up, and those after it."""
    if steps is None:
        return float("inf")
    warm = min(steps, size.freeze)
    return warm * float(row["warm-up seconds"]) + (steps - warm) * float(row["seconds"])


def main() -> int:
    """Exit status 1 when a bar is missed."""
    arguments = options(__doc__ or "", parts=True)
    size = QUICK if arguments.quick else FULL
    ways = COMPARED if arguments.quick else list(WAYS)
    # The few steps of a quick run tell nothing of a loss.
    cells, seeds = (CELLS[:2], ()) if arguments.quick else (CELLS, SEEDS)
    rows: list[dict[str, Any]] = []
    followed: list[dict[str, Any]] = []
    try:
        for world, mbit in cells:
            key = f"{world} ranks, {mbit} Mbit/s"
            rows += resume(arguments.parts, key, lambda w=world, m=mbit: times(w, m, size, ways))
    except NotPermitted as reason:
        print(f"communication: skipped: links cannot be throttled here: {reason}", flush=True)
        return 0
    for seed in seeds:
        for way in FOLLOWED:
            key = f"{way}, seed {seed}"
            followed += resume(arguments.parts, key, lambda s=seed, w=way: curves(s, size, [w]))
    return finish(
        "communication",
        title="Fewer bytes on slow links",
        rows=rows,
        bars=[*of_steps(rows, size), *(of_losses(rows, followed, size) if followed else [])],
        notes=[
            f"Ranks of one thread with {size.rows} rows of {SEQ} tokens a step; a step's seconds are the "
            "median, on the slowest rank. DDP overlaps its all-reduce with backward. Bytes are what a rank "
            "sends, of the ways that are ours. Those that send signs send gradients in bf16 before; 0/1 Adam "
            "is timed where each step communicates.",
            f"A run: {size.freeze} steps of {size.steps} before the variance freezes, where PowerSGD begins "
            "too, and the rest after it. Time to a loss: the steps that a run without a throttle took "
            "(running mean, 3 seeds, median) times the seconds of a step over the link.",
            "DeepSpeed has removed its 1-bit optimizers, so that no living peer has them.",
        ],
        arguments=arguments,
    )


BARS = (("fp32", FP32, 4.0), ("fp16 hook", FP16, 2.4), ("PowerSGD", POWER, 1.0))
"""What 1-bit Adam is held against, and how many times faster it has to be."""
SLOW, FAST, MINE = "100 Mbit/s", "1000 Mbit/s", "1-bit Adam"


def published(size: Size) -> float:
    """How many times fewer bytes than gradients in 16 bits a run sends whose first part goes in 16 bits and
    the rest in one."""
    share = size.freeze / size.steps
    return 1 / (share + (1 - share) / 16)


def of_steps(rows: list[dict[str, Any]], size: Size) -> list[Bar]:
    """Bytes and time of a run of so many steps over a slow link, time of a step over a faster one."""
    of = {(row["link"], row["way"]): row for row in rows if row["ranks"] == 2}
    mine = of[SLOW, MINE]
    later = size.steps - size.freeze
    exact = size.steps * float(of[SLOW, "Adam, fp32 all-reduce"]["MB a step"])
    signs = size.freeze * float(mine["MB warm-up"]) + later * float(mine["MB a step"])
    found = [
        Bar("bytes of a run, 16 bits / 1-bit Adam", exact / 2 / signs, 4.9),
        Bar("the same, of the published count (exact)", exact / 2 / signs / published(size), 0.99),
    ]
    whole = seconds_to(size.steps, size, mine)
    for name, way, bar in BARS:
        ratio = seconds_to(size.steps, size, of[SLOW, way]) / whole
        found.append(Bar(f"time of a run at {SLOW}, {name} / 1-bit Adam", ratio, bar))
    step = float(of[SLOW, FP16]["seconds"]) / float(mine["seconds"])
    found.append(Bar(f"step at {SLOW}, fp16 hook / 1-bit Adam", step, 2.4))
    if (SLOW, LAMB) in of:
        lamb, its_signs = (seconds_to(size.steps, size, of[SLOW, way]) for way in (LAMB, SIGNS_OF_LAMB))
        found.append(Bar(f"time of a run at {SLOW}, LAMB, fp32 / 1-bit LAMB", lamb / its_signs, 4.0))
    peer = BF16 if (FAST, BF16) in of else FP16
    ratio = float(of[FAST, peer]["seconds"]) / float(of[FAST, MINE]["seconds"])
    name = peer.removeprefix("Adam, ").removesuffix(" (DDP)")
    return [*found, Bar(f"step at {FAST}, {name} / 1-bit Adam", ratio, 1.0)]


def of_losses(rows: list[dict[str, Any]], followed: list[dict[str, Any]], size: Size) -> list[Bar]:
    """Time to the loss that both Adam and 1-bit Adam reach, and the loss at equal steps."""
    of = {row["way"]: row for row in rows if (row["ranks"], row["link"]) == (2, SLOW)}
    window = max(5, size.steps // 20)
    ends = {way: [f["losses"] for f in followed if f["way"] == way] for way in FOLLOWED}
    final = {way: [smoothed(run, window)[-1] for run in runs] for way, runs in ends.items()}
    target = max(statistics.mean(final[way]) for way in (FP32, MINE)) + 0.01

    def seconds(way: str) -> float:
        steps = [steps_to(run, target, window) for run in ends[way]]
        known = [s for s in steps if s is not None]
        middle = round(statistics.median(known)) if len(known) == len(steps) else None
        return seconds_to(middle, size, of[way])

    found = []
    for name, way, bar in BARS:
        ratio = min(seconds(way) / seconds(MINE), 99.0)  # a way that never gets there is told as 99
        found.append(Bar(f"time to loss at {SLOW}, {name} / 1-bit Adam", ratio, bar))
    apart = statistics.mean(final[MINE]) - statistics.mean(final[FP32])
    deviation = statistics.stdev(final[FP32])
    name = "loss at equal steps, 1-bit Adam above Adam, in its deviations"
    return [*found, Bar(name, apart / deviation, 1.0, at_most=True)]


if __name__ == "__main__":
    sys.exit(main())
