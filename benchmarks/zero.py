"""ZeRO stages beside DDP, ZeroRedundancyOptimizer, FSDP2 and DeepSpeed: tokens/s and peak memory.

Every engine trains the very same module on the same tokens, with AdamW and without clipping, on two processes
of one thread. Engines take turns; a figure is the median of the rounds' medians over steps. Memory is the
peak resident set of a rank over what it had after its imports. DeepSpeed runs from an environment of its own
(`--deepspeed PYTHON`, with DeepSpeed and the same torch); without one its rows are left out, and said so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, interleave, median, options, resume

SHAPES = {
    "34M": {"d_model": 512, "n_layers": 9, "n_heads": 8, "d_ff": 2048, "max_positions": 256},
    "150M": {"d_model": 1024, "n_layers": 11, "n_heads": 16, "d_ff": 4096, "max_positions": 256},
}
VOCABULARY, SEQUENCE, ROWS, RANKS, WARM = 8192, 256, 2, 2, 2
STEPS = {"34M": 6, "150M": 4}
OURS = {f"mainspring zero-{stage}": stage for stage in range(4)}
DEEPSPEED = {f"deepspeed zero-{stage}": stage for stage in (1, 2, 3)}
PEERS = ("ddp", "ddp + zero redundancy optimizer", "fsdp2 kept", "fsdp2 resharded")
ENVIRONMENT = Path("/work/peers/deepspeed/bin/python")
"""Where DeepSpeed is looked for."""


def shape_of(size: str) -> Any:
    """The configuration of the model under test."""
    from mainspring.models import ModelConfig, resolve

    return resolve(ModelConfig(family="gpt2", config=SHAPES[size]), vocab_size=VOCABULARY)


def whole_model(size: str) -> Any:
    """The model with its first values."""
    from mainspring.nn import Transformer, initialize

    return initialize(Transformer(shape_of(size)), 0)


def train(step: Callable[[Any, Any], Any], steps: int) -> list[float]:
    """When each step ended (seconds of the epoch); the first is when the work began."""
    import torch
    import torch.distributed as dist

    from mainspring.data.batch import causal_batch

    generator = torch.Generator().manual_seed(dist.get_rank())
    ends = [time.time()]
    for _ in range(steps):
        ids = torch.randint(VOCABULARY, (ROWS, SEQUENCE + 1), generator=generator)
        step(causal_batch(ids[:, :-1]), ids[:, 1:])
        ends.append(time.time())
    return ends


def loss_of(model: Any, batch: Any, labels: Any) -> Any:
    """Mean cross entropy in fp32."""
    import torch

    logits = model(batch).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def plain_step(
    model: Any, optimizer: Any, context: Any = contextlib.nullcontext
) -> Callable[[Any, Any], Any]:
    """The loop of every engine but DeepSpeed."""

    def step(batch: Any, labels: Any) -> None:
        with context():
            loss = loss_of(model, batch, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def ours(size: str, precision: str, stage: int) -> Callable[[Any, Any], Any]:
    """Born on meta, spread, materialised: as our trainer does it."""
    import torch

    from mainspring import optim, parallel
    from mainspring.nn import Transformer, initialize

    with torch.device("meta"):
        model = Transformer(shape_of(size))
    parallel.apply(model, parallel.Plan(data=RANKS, zero=stage), precision=precision)
    parallel.materialize(model, "cpu", lambda m: initialize(m, 0))
    return plain_step(model, optim.build(model, optim.OptimConfig(lr=1e-4)))


def torch_peer(size: str, precision: str, engine: str) -> Callable[[Any, Any], Any]:
    """PyTorch's own engines as its documentation has them."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    model = whole_model(size)
    if engine.startswith("ddp"):
        wrapped = DistributedDataParallel(model)
        optimizer: Any
        if engine == "ddp":
            optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-4, fused=True)
        else:
            optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), torch.optim.AdamW, lr=1e-4, fused=True)
        return plain_step(
            wrapped, optimizer, lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        )
    policy = MixedPrecisionPolicy(*((torch.bfloat16, torch.bfloat16) if precision == "bf16" else ()))
    for block in [*model.blocks(), model]:
        fully_shard(block, reshard_after_forward=engine == "fsdp2 resharded", mp_policy=policy)
    return plain_step(model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))


def deepspeed_peer(size: str, precision: str, stage: int) -> Callable[[Any, Any], Any]:
    """DeepSpeed with clipping off, which is on by default."""
    import deepspeed
    import torch

    model = whole_model(size)
    config = {
        "train_micro_batch_size_per_gpu": ROWS,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": {"stage": stage},
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)

    def step(batch: Any, labels: Any) -> None:
        loss = loss_of(engine, batch, labels)
        engine.backward(loss)
        engine.step()
        loss.item()

    return step


def status(key: str) -> float:
    """A field of this process's status, in MiB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def child(engine: str, size: str, precision: str, steps: int, out: Path) -> None:
    """One rank of one engine: leaves its step times and its peak memory."""
    import torch
    import torch.distributed as dist

    import mainspring.models
    import mainspring.optim
    import mainspring.parallel
    import mainspring.train  # noqa: F401

    torch.set_num_threads(1)
    if engine in DEEPSPEED:
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    else:
        import torch.distributed.fsdp
        import torch.distributed.optim

        dist.init_process_group("gloo")
    imports, began = status("VmRSS"), time.time()
    if engine in OURS:
        step = ours(size, precision, OURS[engine])
    elif engine in DEEPSPEED:
        step = deepspeed_peer(size, precision, DEEPSPEED[engine])
    else:
        step = torch_peer(size, precision, engine)
    ends = train(step, steps)
    seconds = [b - a for a, b in zip(ends[WARM:], ends[WARM + 1 :], strict=False)]
    found = {"seconds": seconds, "peak": status("VmHWM") - imports, "first": ends[1] - began}
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # gloo's threads of a peer have been seen to wait for each other at the end of a process


def measure(engine: str, size: str, precision: str, steps: int, deepspeed: Path) -> dict[str, float]:
    """Run one engine once on two processes."""
    python = str(deepspeed) if engine in DEEPSPEED else sys.executable
    with tempfile.TemporaryDirectory() as out:
        command = [
            python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}",
            "-m", "benchmarks.zero", "--child", engine, size, precision, str(steps), out,
        ]  # fmt: skip
        here = Path(__file__).parents[1]
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
            "PYTHONPATH": f"{here}:{here / 'src'}",
            "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        if engine in DEEPSPEED:
            environment["TORCH_EXTENSIONS_DIR"] = str(deepspeed.parents[2] / "torch_extensions")
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        if ran.returncode:
            raise RuntimeError(f"{engine}: {ran.stdout[-1000:]}{ran.stderr[-3000:]}")
        ranks = [json.loads(path.read_text()) for path in Path(out).glob("*.json")]
    return {
        "tokens_per_second": RANKS * ROWS * SEQUENCE / max(median(rank["seconds"]) for rank in ranks),
        "peak": max(rank["peak"] for rank in ranks),
        "first": max(rank["first"] for rank in ranks),
    }


def elements_over_ideal(size: str) -> float:
    """Elements of the fullest rank over an equal share, for this model on 1,024 ranks."""
    import torch

    from mainspring.nn import Transformer
    from mainspring.parallel.zero.unit import Sharers, find_units

    with torch.device("meta"):
        model = Transformer(shape_of(size))
    total = sum(p.numel() for p in model.parameters())
    rows = [row for unit in find_units(model, lambda _: Sharers(world=1024), "fp32") for row in unit.rows]
    return sum(row.layout.part for row in rows) * 1024 / total


def main() -> int:
    """Compare at two sizes and two precisions (with --quick the smaller model in bf16)."""
    deepspeed = ENVIRONMENT
    if "--deepspeed" in sys.argv:
        at = sys.argv.index("--deepspeed")
        deepspeed = Path(sys.argv[at + 1])
        del sys.argv[at : at + 2]
    every = [(size, precision) for size in SHAPES for precision in ("bf16", "fp32")]
    names = [" ".join(one) for one in every]
    arguments = options(__doc__.splitlines()[0], parts=True, only=names)
    rounds = 1 if arguments.quick else 5
    engines = [*OURS, *PEERS, *(DEEPSPEED if deepspeed.exists() else ())]
    if arguments.quick:
        engines = ["mainspring zero-2", "mainspring zero-3", "ddp", "fsdp2 kept", "fsdp2 resharded"]
    chosen = arguments.only or (["34M bf16"] if arguments.quick else names)
    compared = [one for one, name in zip(every, names, strict=True) if name in chosen]
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for size, precision in compared:
        steps = 4 if arguments.quick else STEPS[size]
        results: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
        for turn in range(rounds):
            first = turn % len(engines)
            for engine in engines[first:] + engines[:first]:
                turn_of = partial(measure, engine, size, precision, steps, deepspeed)
                key = f"{size} {precision} {engine} round {turn + 1}"
                results[engine] += resume(arguments.parts, key, partial(once, engine, turn_of))
        keys = ("tokens_per_second", "peak", "first")
        found = {e: {k: median([run[k] for run in runs]) for k in keys} for e, runs in results.items()}
        for engine, figures in found.items():
            rows.append(
                {
                    "model": size,
                    "precision": precision,
                    "engine": engine,
                    "tokens/s": round(figures["tokens_per_second"], 1),
                    "x DDP": round(figures["tokens_per_second"] / found["ddp"]["tokens_per_second"], 2),
                    "peak MiB over imports": round(figures["peak"]),
                    "s to first step": round(figures["first"], 1),
                    "peak of each round": [round(r["peak"]) for r in results[engine]],
                    "tokens/s of each round": [round(r["tokens_per_second"]) for r in results[engine]],
                }
            )
        bars += compare(found, f"{size} {precision}")
    for size in SHAPES:
        ratio = elements_over_ideal(size)
        bars.append(Bar(f"{size} elements over ideal on 1,024 ranks", ratio, 1.001, at_most=True))
    notes = [
        f"Sequence {SEQUENCE}, {ROWS} rows a rank and step, {RANKS} gloo ranks of one thread, AdamW, no "
        f"clipping; median of {rounds} rounds. All engines train our module, so products and attention are "
        "the same. In bf16 DDP runs under autocast; FSDP2 and DeepSpeed keep 16-bit copies as we do, and "
        "reduce in bf16.",
        "Time to the first step counts from after the imports; what DeepSpeed compiles is cached by then.",
    ]
    if left_out := [name for name in names if name not in chosen]:
        notes.append(f"Not measured: {', '.join(left_out)}.")
    if not deepspeed.exists():
        notes.append(f"DeepSpeed was left out: there is no {deepspeed}.")
    return finish("zero", title="ZeRO beside PyTorch and DeepSpeed", rows=rows, bars=bars, notes=notes,
                  arguments=arguments)  # fmt: skip


def once(engine: str, run: Callable[[], dict[str, float]]) -> list[dict[str, Any]]:
    """What an engine reaches in its turn of a round."""
    return [dict(reached) for reached in interleave(1, {engine: run})[engine]]


def compare(found: dict[str, dict[str, float]], where: str) -> list[Bar]:
    """Every bar that the engines at hand allow."""
    bars = []
    rate = {engine: figures["tokens_per_second"] for engine, figures in found.items()}
    peak = {engine: figures["peak"] for engine, figures in found.items()}
    same = {
        1: ["deepspeed zero-1"],
        2: ["fsdp2 kept", "deepspeed zero-2"],
        3: ["fsdp2 resharded", "deepspeed zero-3"],
    }
    for stage, peers in same.items():
        mine = f"mainspring zero-{stage}"
        for peer in [p for p in peers if p in found and mine in found]:
            bars.append(Bar(f"{where} {mine} / {peer}, tokens/s", rate[mine] / rate[peer], 1.2))
            if stage == 3:
                name = f"{where} {mine} / {peer}, peak memory"
                bars.append(Bar(name, peak[mine] / peak[peer], 0.7, at_most=True))
        if stage < 3 and mine in found:
            bars.append(Bar(f"{where} {mine} / ddp, tokens/s", rate[mine] / rate["ddp"], 0.95))
    return bars


if __name__ == "__main__":
    if "--child" in sys.argv:
        at = sys.argv.index("--child")
        _engine, _size, _precision, _steps, _out = sys.argv[at + 1 : at + 6]
        child(_engine, _size, _precision, int(_steps), Path(_out))
    else:
        sys.exit(main())
