"""Training throughput and peak memory beside plain PyTorch and the Hugging Face Trainer.

One GPT-2-shaped model, the same tokens, two processes of one thread. Each engine runs in its own pair of
processes, engines take turns, and a figure is the median of the rounds' medians over steps. The bare loops
are fed from memory and train transformers' GPT-2 or, "ours", the very module that our trainer trains.

The physical bound is the matrix multiplication rate of a core, measured in the same run: 6 FLOPs a parameter
and token (Kaplan et al. 2020) plus attention.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, interleave, median, options
from benchmarks.trainer import ends_of_steps

SHAPE = {"d_model": 512, "n_layers": 8, "n_heads": 8, "d_ff": 2048, "max_positions": 256}
VOCABULARY, SEQUENCE, ROWS, RANKS = 8192, 256, 2, 2
RATE, CLIP, WARM = 1e-4, 1.0, 2
OURS = {"mainspring zero-0": 0, "mainspring zero-1": 1, "mainspring zero-2": 2, "mainspring zero-3": 3}
BARE = {
    "ddp loop": ("ddp", False),
    "fsdp2 loop, kept": ("keep", False),
    "fsdp2 loop, resharded": ("reshard", False),
    "fsdp2 loop, kept, ours": ("keep", True),
    "fsdp2 loop, resharded, ours": ("reshard", True),
}
HF = "hf trainer"
SOME = (*OURS, "ddp loop", "fsdp2 loop, kept, ours", "fsdp2 loop, resharded, ours", HF)
QUICK = ("mainspring zero-2", "fsdp2 loop, kept, ours", HF)


def build_data(folder: Path) -> None:
    """Token shards of the installed documentation, enough for every engine to see text once."""
    from mainspring.data import build, docstring_documents
    from mainspring.text import train_tokenizer

    documents = list(docstring_documents(limit_bytes=3_000_000))
    tokenizer = train_tokenizer((d.text for d in documents), kind="bpe", vocab_size=VOCABULARY)
    build(documents, tokenizer, folder)


def batches(folder: Path, rank: int) -> Iterator[Any]:
    """This rank's batches, in the order in which our trainer takes them."""
    from mainspring.data import DataConfig, TokenData, mixture_of, rows

    data = TokenData.open(folder)
    mixture = mixture_of(data, DataConfig(path=str(folder), seq_len=SEQUENCE))
    step = 0
    while True:
        first = (step * RANKS + rank) * ROWS
        yield rows(data, mixture, 0, SEQUENCE, first, first + ROWS)
        step += 1


def train_ours(folder: Path, steps: int, precision: str, zero: int, run: Path) -> list[float]:
    """Seconds between the ends of successive steps of our trainer, everything included."""
    from mainspring.parallel import World
    from mainspring.train import Recipe, StepDone, Trainer

    recipe = Recipe.model_validate_json(
        json.dumps(
            {
                "name": "bench",
                "model": {"family": "gpt2", "config": {**SHAPE, "vocab_size": VOCABULARY}},
                "data": {"path": str(folder), "seq_len": SEQUENCE},
                "optim": {"lr": RATE, "clip": CLIP, "schedule": {"kind": "constant"}},
                "plan": {"data": RANKS, "zero": zero},
                "train": {
                    "steps": steps,
                    "batch_tokens": RANKS * ROWS * SEQUENCE,
                    "precision": precision,
                    "checkpoint_every": 0,
                    "eval_every": 0,
                    "threads": 1,
                },
            }
        )
    )
    ends: list[float] = []

    def watch(event: Any) -> None:
        if isinstance(event, StepDone):
            ends.append(time.perf_counter())

    with World.start() as world:
        Trainer(recipe, run, world, [watch]).fit()
    return ends


def train_bare(folder: Path, steps: int, precision: str, way: str, our_module: bool) -> list[float]:
    """A loop as PyTorch's own examples write it: forward, mean loss, backward, clip, fused AdamW."""
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    model, blocks = our_gpt2() if our_module else their_gpt2()
    low = precision == "bf16"
    if way == "ddp":
        model = DistributedDataParallel(model)
    else:
        policy = MixedPrecisionPolicy(*((torch.bfloat16, torch.float32) if low else ()))
        for block in [*blocks, model]:
            fully_shard(block, reshard_after_forward=way == "reshard", mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    feed = batches(folder, dist.get_rank())
    ready = [next(feed) for _ in range(steps)]
    ends: list[float] = []
    for batch in ready:
        with torch.autocast("cpu", torch.bfloat16, enabled=low and way == "ddp"):
            logits = model(batch if our_module else batch.ids).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        ends.append(time.perf_counter())
    dist.destroy_process_group()
    return ends


def our_gpt2() -> tuple[Any, list[Any]]:
    """The module that our trainer trains, and its blocks."""
    from mainspring.models import ModelConfig, resolve
    from mainspring.nn import Transformer, initialize

    model = Transformer(resolve(ModelConfig(family="gpt2", config={**SHAPE}), vocab_size=VOCABULARY))
    return initialize(model, 0), model.blocks()


def their_gpt2() -> tuple[Any, list[Any]]:
    """transformers' GPT-2 of the same shape, with SDPA attention, and its blocks."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=SEQUENCE, n_embd=SHAPE["d_model"], n_layer=SHAPE["n_layers"],
        n_head=SHAPE["n_heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    return model, list(model.transformer.h)


def train_hf(folder: Path, steps: int, precision: str) -> list[float]:
    """transformers.Trainer (accelerate, DDP) with its own GPT-2 and SDPA attention."""
    rank = int(os.environ["RANK"])
    feed = batches(folder, rank)
    examples = [
        {"input_ids": row, "labels": row.clone()}
        for _, batch in zip(range(steps), feed, strict=False)
        for row in batch.ids
        for _ in range(RANKS)  # the Trainer's sampler deals examples out to the ranks
    ]
    return ends_of_steps(
        their_gpt2()[0], examples, rows=ROWS, steps=steps, precision=precision, learning_rate=RATE,
        max_grad_norm=CLIP, weight_decay=0.0, ddp_backend="gloo",
    )  # fmt: skip


def child(engine: str, folder: Path, steps: int, precision: str, out: Path) -> None:
    """One rank of one engine: leaves its step times and its peak resident memory."""
    import torch

    torch.set_num_threads(1)
    if engine in OURS:
        ends = train_ours(folder, steps, precision, OURS[engine], out / "run")
    elif engine == HF:
        ends = train_hf(folder, steps, precision)
    else:
        ends = train_bare(folder, steps, precision, *BARE[engine])
    seconds = [b - a for a, b in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps({"seconds": seconds, "peak_mib": peak}))


def measure(engine: str, folder: Path, steps: int, precision: str) -> dict[str, float]:
    """Run one engine once on two processes."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}",
            "-m", "benchmarks.train", "--child", engine, str(folder), str(steps), precision, out,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"{engine}: {ran.stderr[-3000:]}")
        ranks = [json.loads(path.read_text()) for path in Path(out).glob("*.json")]
    step = max(median(rank["seconds"]) for rank in ranks if rank["seconds"])  # ours tells rank 0 alone
    return {
        "tokens_per_second": RANKS * ROWS * SEQUENCE / step,
        "peak_mib": max(rank["peak_mib"] for rank in ranks),
    }


def gemm_rate(precision: str) -> float:
    """FLOP/s of one core at this model's shapes."""
    import torch

    from mainspring.nn.linear import linear

    torch.set_num_threads(1)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x, w = torch.randn(512, 512, dtype=kind), torch.randn(2048, 512, dtype=kind)
    best = 0.0
    with torch.no_grad():
        for product in (torch.nn.functional.linear, linear):
            for _ in range(30):
                started = time.perf_counter()
                for _ in range(5):
                    product(x, w)
                best = max(best, 5 * 2 * 512 * 512 * 2048 / (time.perf_counter() - started))
    return best


def main() -> int:
    """Compare, at two precisions (one with --quick)."""
    arguments = options("training throughput and memory beside PyTorch and the Hugging Face Trainer")
    rounds, steps = (1, 4) if arguments.quick else (5, 7)
    everything = (*OURS, *BARE, HF)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as folder:
        build_data(Path(folder))
        compared = {"fp32": QUICK} if arguments.quick else {"fp32": everything, "bf16": SOME}
        for precision, engines in compared.items():

            def runner(engine: str, precision: str = precision) -> Callable[[], dict[str, float]]:
                return lambda: measure(engine, Path(folder), steps, precision)

            results = interleave(rounds, {engine: runner(engine) for engine in engines})
            rate = {e: median([r["tokens_per_second"] for r in runs]) for e, runs in results.items()}
            bound = RANKS * gemm_rate(precision) / flops_per_token()
            for engine, runs in results.items():
                rows.append(
                    {
                        "precision": precision,
                        "engine": engine,
                        "tokens/s": round(rate[engine], 1),
                        "of the GEMM bound": round(rate[engine] / bound, 3),
                        "x the HF trainer": round(rate[engine] / rate[HF], 2),
                        "peak MiB a rank": round(median([r["peak_mib"] for r in runs])),
                        "tokens/s of each round": [round(r["tokens_per_second"]) for r in runs],
                    }
                )
            for zero, way in ((2, "kept"), (3, "resharded")):
                for peer in (f"fsdp2 loop, {way}", f"fsdp2 loop, {way}, ours"):
                    mine = f"mainspring zero-{zero}"
                    if peer in rate and mine in rate:
                        bars.append(Bar(f"{precision} {mine} / {peer}", rate[mine] / rate[peer], 1.0))
            for mine in OURS:
                if mine in rate:
                    bars.append(Bar(f"{precision} {mine} / {HF}", rate[mine] / rate[HF], 1.15))
    notes = [
        f"{parameters():,} parameters, sequence {SEQUENCE}, {ROWS} rows a rank and step, {RANKS} gloo "
        f"ranks of one thread, AdamW, clipping at {CLIP}; {flops_per_token():,} FLOPs a token; "
        f"median of {rounds} rounds.",
        "The bare loops take their batches from memory; our trainer also reads, logs and reports. "
        "The GEMM bound is the better of MKL and oneDNN at this model's shapes.",
        "Where the lead comes from: in fp32 oneDNN's products in place of MKL's; in bf16, where both sides "
        "use oneDNN, its batched products in attention and, from ZeRO 1 on, weights and gradients in bf16 "
        "without autocast (fp32 masters); in both, collectives through shared memory in place of gloo.",
    ]
    return finish("train", title="Training beside PyTorch and the Hugging Face Trainer", rows=rows, bars=bars,
                  notes=notes, arguments=arguments)  # fmt: skip


def parameters() -> int:
    """Parameters of the model under test."""
    width, depth = SHAPE["d_model"], SHAPE["n_layers"]
    return depth * (12 * width**2 + 13 * width) + (VOCABULARY + SEQUENCE + 2) * width


def flops_per_token() -> int:
    """Forward and backward: 6 a multiplied weight, and causal attention's scores and sums."""
    width, depth = SHAPE["d_model"], SHAPE["n_layers"]
    return 6 * (12 * depth * width**2 + VOCABULARY * width) + 6 * depth * SEQUENCE * width


if __name__ == "__main__":
    if "--child" in sys.argv:
        at = sys.argv.index("--child")
        _engine, _folder, _steps, _precision, _out = sys.argv[at + 1 : at + 6]
        child(_engine, Path(_folder), int(_steps), _precision, Path(_out))
    else:
        sys.exit(main())
