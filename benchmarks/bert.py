"""Pre-training BERT: our trainer beside transformers' Trainer, which is compiled and has SDPA attention.

The same shape, the same text in rows that are full, the same number of masked tokens, AdamW and clipping; no
dropout, so that both sides do the same arithmetic. Ours predicts at masked positions only; the peer's model
computes logits everywhere, as it comes. Each side trains in a process of its own, sides take turns, and a
figure is the median of the rounds' medians over steps (the peer's first steps compile and do not count).

The physical bound is the rate of matrix products at this model's shapes, measured in the same run: 6 FLOPs a
multiplied weight and token, and the scores of attention. The head's products count where tokens are masked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, interleave_parts, median, multiplies_bf16, options
from benchmarks.trainer import ends_of_steps

SHAPES = {"full": (768, 12, 12, 8), "quick": (256, 2, 4, 8)}
"""Width, layers, heads and rows of a step."""
VOCABULARY, SEQUENCE, MASKED, THREADS = 8192, 128, 0.15, 2
RATE, CLIP = 1e-4, 1.0
WARM = 2
"""Steps that do not count; compiling falls into the first."""
OURS, PEER = "mainspring", "transformers Trainer, compiled"


def build_data(folder: Path) -> None:
    """Token shards of the installed documentation, with a tokenizer that can mask."""
    from mainspring.data import build, docstring_documents
    from mainspring.text import train_tokenizer

    documents = list(docstring_documents(limit_bytes=3_000_000))
    tokenizer = train_tokenizer((d.text for d in documents), kind="wordpiece", vocab_size=VOCABULARY)
    build(documents, tokenizer, folder)


def train_ours(folder: Path, size: str, steps: int, precision: str, run: Path) -> list[float]:
    """Ends of steps of our trainer, everything included."""
    from mainspring.parallel import World
    from mainspring.train import Recipe, StepDone, Trainer

    width, layers, heads, rows = SHAPES[size]
    config = {"d_model": width, "n_layers": layers, "n_heads": heads, "d_ff": 4 * width, "dropout": 0.0}
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "model": {"family": "bert", "preset": "base", "config": {**config, "attention_dropout": 0.0}},
            "data": {"path": str(folder), "seq_len": SEQUENCE},
            "objective": {"kind": "mlm", "rate": MASKED, "max_ngram": 1},
            "optim": {"lr": RATE, "clip": CLIP, "schedule": {"kind": "constant"}},
            "train": {
                "steps": steps,
                "batch_tokens": rows * SEQUENCE,
                "precision": precision,
                "checkpoint_every": 0,
                "eval_every": 0,
                "threads": THREADS,
                "keep_memory": True,
            },
        }
    )
    ends: list[float] = []

    def watch(event: Any) -> None:
        if isinstance(event, StepDone):
            ends.append(time.perf_counter())

    with World.start() as world:
        Trainer(recipe, run, world, [watch]).fit()
    return ends


def examples(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """Rows of the same text with labels at masked places, for the peer; made before anything is timed."""
    import torch

    from mainspring.data import DataConfig, TokenData, mixture_of, rows

    data = TokenData.open(folder)
    mixture = mixture_of(data, DataConfig(path=str(folder), seq_len=SEQUENCE))
    batch = rows(data, mixture, 0, SEQUENCE, 0, count)
    draw = torch.Generator().manual_seed(0)
    masked = torch.rand(batch.ids.shape, generator=draw) < MASKED
    labels = batch.ids.masked_fill(~masked, -100)
    for ids, targets, hidden in zip(batch.ids, labels, masked, strict=True):
        yield {"input_ids": ids.masked_fill(hidden, 4), "labels": targets}


def train_peer(folder: Path, size: str, steps: int, precision: str) -> list[float]:
    """Ends of steps of transformers.Trainer with its own BERT."""
    from transformers import BertConfig, BertForMaskedLM

    width, layers, heads, rows = SHAPES[size]
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )  # fmt: skip
    return ends_of_steps(
        BertForMaskedLM(config), list(examples(folder, steps * rows)), rows=rows, steps=steps,
        precision=precision, learning_rate=RATE, max_grad_norm=CLIP, weight_decay=0.01, torch_compile=True,
    )  # fmt: skip


def child(side: str, folder: Path, size: str, steps: int, precision: str, out: Path) -> None:
    """A side: leaves the median of its steps."""
    import torch

    torch.set_num_threads(THREADS)
    if side == OURS:
        ends = train_ours(folder, size, steps, precision, out / "run")
    else:
        ends = train_peer(folder, size, steps, precision)
    seconds = [b - a for a, b in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
    (out / "seconds.json").write_text(json.dumps(median(seconds)))


def measure(folder: Path, size: str, steps: int, precision: str, side: str) -> list[float]:
    """Seconds of a step, in a process of its own, and the rate of matrix products just after it."""
    with tempfile.TemporaryDirectory() as out:
        told = [side, str(folder), size, str(steps), precision, out]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
        command = [sys.executable, "-m", "benchmarks.bert", "--child", *told]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"{side}: {ran.stderr[-3000:]}")
        seconds: float = json.loads((Path(out) / "seconds.json").read_text())
    return [seconds, gemm_rate(size, precision)]


def gemm_rate(size: str, precision: str) -> float:
    """FLOP/s of all threads at this model's shapes, of the better of both libraries."""
    import torch

    from mainspring.nn.linear import linear

    torch.set_num_threads(THREADS)
    width, _, _, rows = SHAPES[size]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x, w = torch.randn(rows * SEQUENCE, width, dtype=kind), torch.randn(4 * width, width, dtype=kind)
    best = 0.0
    with torch.no_grad():
        for product in (torch.nn.functional.linear, linear):
            for _ in range(20):
                started = time.perf_counter()
                product(x, w)
                best = max(best, 2 * x.shape[0] * w.numel() / (time.perf_counter() - started))
    return best


def flops_per_token(size: str) -> float:
    """Forward and backward: 6 a multiplied weight, the head's where a token is masked; attention's scores."""
    width, layers, _, _ = SHAPES[size]
    head = MASKED * (width**2 + VOCABULARY * width)
    return 6 * (12 * layers * width**2 + head) + 12 * layers * SEQUENCE * width


def main() -> int:
    """Compare; in bf16 too where the machine multiplies it."""
    arguments = options(__doc__ or "", parts=True)
    size, rounds, steps = ("quick", 1, 8) if arguments.quick else ("full", 5, 8)
    tokens = SHAPES[size][3] * SEQUENCE
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as folder:
        build_data(Path(folder))
        for precision in ("fp32", "bf16") if multiplies_bf16() and not arguments.quick else ("fp32",):
            sides = {s: partial(measure, Path(folder), size, steps, precision, s) for s in (OURS, PEER)}
            taken = interleave_parts(arguments.parts, f"{size} {precision}", rounds, sides)
            seconds = {side: median([one[0] for one in found]) for side, found in taken.items()}
            peak = median([one[1] for found in taken.values() for one in found])
            share = {side: tokens / s * flops_per_token(size) / peak for side, s in seconds.items()}
            for side in sides:
                row = {"precision": precision, "side": side, "tokens/s": tokens / seconds[side]}
                rows.append(row | {"of the peak": share[side], "peak GFLOP/s": peak / 1e9})
            low = "" if precision == "fp32" else f", {precision}"
            ratio = seconds[PEER] / seconds[OURS]
            bars += [
                Bar(f"tokens/s, ours / transformers Trainer{low}", ratio, 1.3),
                Bar(f"share of the peak of matrix products{low}", share[OURS], 0.5),
            ]
    width, layers, heads, count = SHAPES[size]
    return finish(
        "bert",
        title="Pre-training BERT",
        rows=rows,
        bars=bars,
        notes=[
            f"Width {width}, {layers} layers, {heads} heads, {VOCABULARY:,} words, {count} rows of "
            f"{SEQUENCE} tokens a step, {MASKED:.0%} masked, {THREADS} threads, no dropout; median of "
            f"{rounds} rounds.",
            "The peak is the better of MKL's and oneDNN's products of the feed-forward layer's shape: median "
            "of what was measured after each run.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    if "--child" in sys.argv:
        at = sys.argv.index("--child")
        _side, _folder, _size, _steps, _precision, _out = sys.argv[at + 1 : at + 7]
        child(_side, Path(_folder), _size, int(_steps), _precision, Path(_out))
    else:
        sys.exit(main())
