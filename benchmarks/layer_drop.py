"""Progressive layer dropping: time of a sample at the published schedule beside that without.

A pre-norm BERT shape reads masked text, forward and backward, with all layers and with those that are kept at
steps spread evenly over a run (Zhang and He 2020: floor 0.5, decay 0.001, 200,000 steps). Both sides run in
turns, on two threads. Layers are drawn, so what counts is the mean over the steps, and beside it stands the
share of layers that was computed. Tokens are random; logits are computed where a token is masked.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness import Bar, finish, interleave, options, resume
from mainspring.data.batch import bidirectional_batch
from mainspring.models.bert.config import bert
from mainspring.nn import Transformer, initialize
from mainspring.nn.block import Block, Gates
from mainspring.train.layer_drop import LayerDropConfig, kept_share, set_gates

THREADS, LAYERS, LENGTH, WORDS, MASKED = 2, 12, 128, 8192, 0.15
STEPS, PUBLISHED = 200_000, LayerDropConfig(floor=0.5, decay=0.001)
SHAPES = {"full": (384, 6, 8), "quick": (128, 2, 4)}
"""Width, heads and rows."""
ROUNDS = {"full": 80, "quick": 40}
"""Steps, spread over a run."""
PART = 20
"""Of them that are measured at once; the parts lie one between the steps of the other."""
BAR = 0.76
"""Published: 24 % less time a sample."""


def seconds(model: Transformer, ids: torch.Tensor, masked: torch.Tensor) -> float:
    """Of a forward with its backward."""
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    logits = model(bidirectional_batch(ids), select=masked).logits
    F.cross_entropy(logits, ids[masked]).backward()
    return time.perf_counter() - started


def dropped(
    model: Transformer, ids: torch.Tensor, masked: torch.Tensor, done: float, computed: list[int]
) -> float:
    """The same where so much of the run is done; notes how many sub-layers were computed."""
    set_gates(model, PUBLISHED, 0, round(done * STEPS), STEPS)
    computed.append(sum((g.attention > 0) + (g.feed_forward > 0) for g in _gates(model)))
    took = seconds(model, ids, masked)
    everything(model)
    return took


def everything(model: Transformer) -> None:
    """Drop nothing any more."""
    for block in model.layers:
        assert isinstance(block, Block)
        block.gates = Gates()


def _gates(model: Transformer) -> list[Gates]:
    return [block.gates for block in model.layers if isinstance(block, Block)]


def measure(size: str, first: int) -> list[dict[str, Any]]:
    """Both sides at every so-manieth of the steps, from a first one."""
    width, heads, count = SHAPES[size]
    config = bert(width, LAYERS, heads, vocab_size=WORDS, norm_place="pre", pooler=False)
    model = initialize(Transformer(config), 0).train()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(WORDS, (count, LENGTH), generator=draw)
    masked = torch.rand(ids.shape, generator=draw) < MASKED
    every = ROUNDS[size] // PART
    turn = iter(range(first, ROUNDS[size], every))
    computed: list[int] = []
    sides = {
        "all": partial(seconds, model, ids, masked),
        "dropped": lambda: dropped(model, ids, masked, (next(turn) + 0.5) / ROUNDS[size], computed),
    }
    seconds(model, ids, masked)
    times = interleave(PART, sides)
    return [{"all": times["all"], "dropped": times["dropped"], "computed": computed}]


def together(size: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean times of both sides over all steps."""
    times = {side: statistics.mean(t for part in parts for t in part[side]) for side in ("all", "dropped")}
    return {
        "width": SHAPES[size][0],
        "layers": LAYERS,
        "all_seconds": times["all"],
        "dropped_seconds": times["dropped"],
        "ratio": times["dropped"] / times["all"],
        "layers_computed": statistics.mean(n for part in parts for n in part["computed"]) / (2 * LAYERS),
        "layers_expected": kept_share(PUBLISHED, LAYERS, STEPS),
    }


def main() -> int:
    """Compare; the bar is the published one."""
    arguments = options(__doc__ or "", parts=True)
    torch.set_num_threads(THREADS)
    size = "quick" if arguments.quick else "full"
    parts: list[dict[str, Any]] = []
    for first in range(ROUNDS[size] // PART):
        parts += resume(arguments.parts, f"{size}, from {first}", partial(measure, size, first))
    rows = [together(size, parts)]
    return finish(
        "layer_drop",
        title="Progressive layer dropping",
        rows=rows,
        bars=[Bar("seconds a sample, dropped / all", rows[0]["ratio"], BAR, at_most=True)],
        notes=[
            f"fp32, {THREADS} threads, rows of {LENGTH} tokens, {WORDS} words; forward and backward, mean "
            f"over {ROUNDS[size]} steps spread over a run of {STEPS:,} at the published schedule. The "
            "optimizer, which leaves dropped layers out too, is not counted.",
            "What it does to the loss is in the table of convergence.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
