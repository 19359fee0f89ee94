"""Progressive layer dropping: time of a sample at the published schedule beside that without.

A pre-norm BERT shape reads masked text, forward and backward, with all layers and with those that are kept at
steps spread evenly over a run (Zhang and He 2020: floor 0.5, decay 0.001, 200,000 steps). Both sides run in
turns, on two threads. Layers are drawn, so what counts is the mean over the steps, and beside it stands the
share of layers that was computed. Tokens are random; logits are computed where a token is masked.
"""

from __future__ import annotations

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
SHAPES = {"full": (512, 8, 8), "quick": (128, 2, 4)}
"""Width, heads and rows."""
ROUNDS = {"full": 80, "quick": 40}
BAR = 0.76
"""Published: 24 % less time a sample."""


def seconds(
    model: Transformer, ids: torch.Tensor, masked: torch.Tensor, dropped: bool, turn: list[int]
) -> float:
    """Of a forward with its backward; with `dropped` at the next of the steps."""
    if dropped:
        step = round((turn[0] + 0.5) / turn[1] * STEPS)
        turn[0] += 1
        set_gates(model, PUBLISHED, 0, step, STEPS)
        turn[2] += sum(gate > 0 for gates in _gates(model) for gate in (gates.attention, gates.feed_forward))
    else:
        for block in model.layers:
            assert isinstance(block, Block)
            block.gates = Gates()
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    logits = model(bidirectional_batch(ids), select=masked).logits
    F.cross_entropy(logits, ids[masked]).backward()
    return time.perf_counter() - started


def _gates(model: Transformer) -> list[Gates]:
    return [block.gates for block in model.layers if isinstance(block, Block)]


def measure(size: str) -> list[dict[str, Any]]:
    """Mean times of both sides."""
    width, heads, count = SHAPES[size]
    config = bert(width, LAYERS, heads, vocab_size=WORDS, norm_place="pre", pooler=False)
    model = initialize(Transformer(config), 0).train()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(WORDS, (count, LENGTH), generator=draw)
    masked = torch.rand(ids.shape, generator=draw) < MASKED
    turn = [0, ROUNDS[size], 0]
    seconds(model, ids, masked, False, turn)
    sides = {
        "all": partial(seconds, model, ids, masked, False, turn),
        "dropped": partial(seconds, model, ids, masked, True, turn),
    }
    times = {name: sum(values) / len(values) for name, values in interleave(ROUNDS[size], sides).items()}
    return [
        {
            "width": width,
            "layers": LAYERS,
            "all_seconds": times["all"],
            "dropped_seconds": times["dropped"],
            "ratio": times["dropped"] / times["all"],
            "layers_computed": turn[2] / (2 * LAYERS * ROUNDS[size]),
            "layers_expected": kept_share(PUBLISHED, LAYERS, STEPS),
        }
    ]


def main() -> int:
    """Compare; the bar is the published one."""
    arguments = options(__doc__ or "", parts=True)
    torch.set_num_threads(THREADS)
    size = "quick" if arguments.quick else "full"
    rows = resume(arguments.parts, size, partial(measure, size))
    return finish(
        "layer_drop",
        title="Progressive layer dropping",
        rows=rows,
        bars=[Bar("seconds a sample, dropped / all", rows[0]["ratio"], BAR, at_most=True)],
        notes=[
            f"fp32, {THREADS} threads, rows of {LENGTH} tokens, {WORDS} words; forward and backward, mean "
            f"over {ROUNDS[size]} steps spread over a run of {STEPS:,} at the published schedule. The "
            "optimizer, which leaves dropped layers out too, is not counted.",
            "What it does to the loss was not measured here.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
