"""Sparse attention beside dense: time and memory of forward with backward, and the longest row that trains.

Ours sees a window and some global tokens in causal order. PyTorch's causal kernel sees all that comes before:
a model trained with one is not that of the other, and what is compared is the time for a row of a length.
With our mask PyTorch's kernel computes the very same, and is there for that. Operands are random; on two
threads.

The longest rows are found in child processes whose memory is limited, with layers that compute again what
backward needs. Dense attention there keeps the scores of a layer, as it did where the published figures come
from; PyTorch's fused kernel keeps none, and needs no more memory than ours, but the time of the first table.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch

from benchmarks.attending.longest import SHAPE, SIDES, fits
from benchmarks.attending.sides import Case, gradients, peak_bytes, seconds
from benchmarks.harness import Bar, finish, interleave, median, options, resume

ROUNDS, THREADS, LENGTHS = 5, 2, (2048, 4096, 8192)
HEADS, QUICK_HEADS = 8, 2
LAYERS, QUICK_LAYERS = 4, 2
LIMIT, QUICK_LIMIT = 4096, 1536
"""MiB that a child may take beside its program and model."""
FASTER, LONGER, EVEN = 5.0, 10.0, 1.5
STEPS = {"dense": 1.15, "sparse": 1.25}
"""From a length to the next that is tried; ours takes the coarser ones, so that what it is told to reach is
rather too little."""


def timed(length: int, heads: int) -> list[dict[str, Any]]:
    """Times and peaks of a length."""
    case = Case(length, heads)
    operands, sides = case.operands(), case.sides()
    ours, theirs = (gradients(sides[name], operands) for name in ("sparse", "masked"))
    error = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    peaks = {name: peak_bytes(partial(gradients, side, operands)) for name, side in sides.items()}
    runs = {name: partial(seconds, side, operands) for name, side in sides.items()}
    times = {name: median(values) for name, values in interleave(ROUNDS, runs).items()}
    row: dict[str, Any] = {"tokens": length, "heads": heads, "computed": case.tiles().computed}
    for name in sides:
        row |= {f"{name}_seconds": times[name], f"{name}_peak_mib": peaks[name] / 2**20}
    row["causal_ratio"] = times["causal"] / times["sparse"]
    row["masked_ratio"] = times["masked"] / times["sparse"]
    row["largest_difference"] = error
    return [row]


def longest(side: str, first: int, mebibytes: int, layers: int, enough: int | None) -> list[dict[str, Any]]:
    """The longest row that trains; where `enough` is given, no longer one is looked for."""
    length, best = first, None
    while (found := fits(side, length, mebibytes, THREADS, layers)) is None:
        length = _blocks(length / STEPS[side])
    while found is not None:
        best = {
            "side": side,
            "limit_mib": mebibytes,
            "longest_tokens": length,
            "step_seconds": found["seconds"],
        }
        longer = _blocks(length * STEPS[side])
        if enough is not None and length >= enough:
            break
        found = fits(side, longer, mebibytes, THREADS, layers)
        length = longer
    assert best is not None
    return [best]


def follows(rows: list[dict[str, Any]]) -> list[Bar]:
    """Whether time and memory grow as the scores that are computed do, and the result is the dense mask's."""
    first, last = rows[0], rows[-1]
    scores = last["computed"] * last["tokens"] ** 2 / (first["computed"] * first["tokens"] ** 2)
    lengths = f"{last['tokens']} / {first['tokens']} tokens"
    found = [
        Bar(f"{name} a computed score, {lengths}", last[key] / first[key] / scores, EVEN, at_most=True)
        for name, key in (("seconds", "sparse_seconds"), ("peak", "sparse_peak_mib"))
    ]
    apart = max(row["largest_difference"] for row in rows)
    return [
        *found,
        Bar("largest difference from the dense mask, values and gradients", apart, 1e-4, at_most=True),
    ]


def _blocks(length: float) -> int:
    return round(length / 64) * 64


def main() -> int:
    """Compare; the bars are on 8192 tokens, on what grows from 2048 to them, and on the longest rows."""
    arguments = options(__doc__ or "", parts=True)
    torch.set_num_threads(THREADS)
    quick = arguments.quick
    heads, layers, limit = (QUICK_HEADS, QUICK_LAYERS, QUICK_LIMIT) if quick else (HEADS, LAYERS, LIMIT)
    rows: list[dict[str, Any]] = []
    for length in LENGTHS:
        rows += resume(arguments.parts, f"{length} tokens, {heads} heads", partial(timed, length, heads))
    bars = [Bar("causal / sparse seconds, 8192 tokens", rows[-1]["causal_ratio"], FASTER), *follows(rows)]
    dense, sparse = SIDES
    begin = _blocks((limit * 2**20 / (16 * 4 * SHAPE["n_heads"] / 4)) ** 0.5)
    key = f"longest {{}} in {limit} MiB{', quick' if quick else ''}"
    rows += resume(arguments.parts, key.format(dense), partial(longest, dense, begin, limit, layers, None))
    most = _blocks(LONGER * rows[-1]["longest_tokens"] + 32)
    enough = most if quick else None
    rows += resume(arguments.parts, key.format(sparse), partial(longest, sparse, most, limit, layers, enough))
    ratio = rows[-1]["longest_tokens"] / rows[-2]["longest_tokens"]
    bars.append(Bar(f"longest row, sparse / dense, {limit} MiB", ratio, LONGER))
    return finish(
        "attention",
        title="Sparse attention beside dense",
        rows=rows,
        bars=bars,
        notes=[
            f"fp32, {THREADS} threads, head width 64; forward and backward of attention alone, median of "
            f"{ROUNDS} rounds. Causal: PyTorch's kernel, all tokens before. Masked: the same with our mask "
            "of all pairs, which computes what ours does. Computed: scores that ours computes, as a share of "
            "all pairs. Peaks: resident memory over that before.",
            "Layout: blocks of 64; a token sees its block, the three before it and the first 128 tokens.",
            f"Longest: {layers} layers of width {SHAPE['d_model']}, {SHAPE['n_heads']} heads, "
            "rotary positions, no head, one row, layers computed again in backward. Dense keeps the scores "
            "of a layer (PyTorch's plain kernel); its fused one keeps none.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
