"""Tokens/s of every way to spread a run over two ranks, beside data parallelism and beside PyTorch's own.

One GPT shape, the same rows a step, AdamW, fp32, two processes of one thread that talk through this machine.
PyTorch's tensor parallelism (DTensor plans) cuts our own module by columns and rows, all but the vocabulary;
its pipeline schedule runs our own layers, with a table for the head of its own, for it cannot share one over
stages; DDP has the whole of it. Its context parallelism does not run on CPU, and it has none for experts.

Two ranks of one machine are where data parallelism is at its best: what the other axes are for is memory,
long rows and slow networks. The figures say what they cost.
"""

from __future__ import annotations

import gc
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

from benchmarks.harness import Bar, finish, median, options, resume

RANKS, ROWS, SEQUENCE, VOCABULARY = 2, 4, 256, 8192
WARM, STEPS = 1, 3
SHAPE = {"d_model": 512, "n_layers": 6, "n_heads": 8, "d_ff": 2048, "max_positions": SEQUENCE}
EXPERTS = {"count": 8, "every": 2, "top_k": 1, "capacity_factor": None}
OURS: dict[str, dict[str, Any]] = {
    "data": {"data": 2},
    "tensor": {"tensor": 2},
    "tensor, tokens cut": {"tensor": 2, "tensor_sequence": True},
    "sequence, heads": {"sequence": 2},
    "sequence, ring": {"sequence": 2, "sequence_attention": "ring"},
    "pipeline, 1f1b": {"pipeline": 2},
    "pipeline, zero bubble": {"pipeline": 2, "pipeline_schedule": "zero_bubble"},
    "experts on each rank": {"data": 2},
    "experts over ranks": {"data": 2, "expert": 2},
}
PEERS = ("torch DDP", "torch DTensor tensor parallel", "torch pipelining 1F1B")
PAIRS = {
    "data": "torch DDP",
    "tensor": "torch DTensor tensor parallel",
    "pipeline, 1f1b": "torch pipelining 1F1B",
}
Run = Callable[[Any], None]
"""A step over ids [ROWS, SEQUENCE + 1], the same on both ranks."""


def config_of(engine: str) -> Any:
    """The model of an engine."""
    from mainspring.models import ModelConfig, resolve

    changes: dict[str, Any] = {"experts": EXPERTS} if engine.startswith("experts") else {}
    changes |= {"tied": False} if "pipelining" in engine else {}
    return resolve(ModelConfig(family="gpt2", config=SHAPE | changes), vocab_size=VOCABULARY)


def mean_loss(model: Any, batch: Any) -> Any:
    """Its share of the mean cross entropy over the step's tokens."""
    from mainspring.objectives.base import labelled_loss

    return labelled_loss(model, batch) / (ROWS * SEQUENCE)


def ours(engine: str) -> Run:
    """Our plan, as our trainer carries it out."""
    import torch

    from mainspring import optim, parallel
    from mainspring.data.batch import TokenBatch, causal_batch
    from mainspring.nn import Transformer, initialize
    from mainspring.parallel.sequence import split_tokens

    plan = parallel.Plan(**OURS[engine])
    with torch.device("meta"):
        model = Transformer(config_of(engine))
    parallel.apply(model, plan, reduce="sum")
    parallel.materialize(model, "cpu", lambda m: initialize(m, 0))
    optimizer = optim.build(model, optim.OptimConfig(lr=1e-4))
    axes, ring = parallel.axes_of(model), plan.sequence_attention == "ring"

    def part(batch: Any, rows: slice) -> Any:
        own = TokenBatch._make(None if t is None else t[rows] for t in batch)
        index = axes.index("sequence")
        return own if plan.sequence == 1 else split_tokens(own, index, plan.sequence, zigzag=ring)

    def step(ids: Any) -> None:
        batch = causal_batch(ids[:, :-1], labels=ids[:, 1:])
        each = ROWS // plan.data
        size = each if plan.pipeline == 1 else 1
        first = axes.index("data") * each
        micro_batches = [part(batch, slice(i, i + size)) for i in range(first, first + each, size)]
        parallel.accumulate(model, micro_batches, mean_loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def torch_peer(engine: str) -> Run:
    """PyTorch's own engines as its documentation has them."""
    import torch
    import torch.distributed as dist

    from mainspring.data.batch import causal_batch
    from mainspring.nn import Transformer, initialize

    rank = dist.get_rank()
    model: Any = initialize(Transformer(config_of(engine)), 0)
    if engine == "torch pipelining 1F1B":
        return _pipelined(model, rank)
    rows = slice(None)
    if engine == "torch DDP":
        model = torch.nn.parallel.DistributedDataParallel(model)
        rows = slice(rank * ROWS // RANKS, (rank + 1) * ROWS // RANKS)
    else:
        _cut(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=engine == "torch DDP")

    def step(ids: Any) -> None:
        mine = ids[rows]
        logits = model(causal_batch(mine[:, :-1])).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), mine[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _cut(model: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    rules = {
        "attention.qkv": ColwiseParallel(),
        "attention.out": RowwiseParallel(),
        "feed_forward.up": ColwiseParallel(),
        "feed_forward.down": RowwiseParallel(),
    }
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in model.layers:
        parallelize_module(layer, mesh, rules)


def _pipelined(model: Any, rank: int) -> Run:
    import torch
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    from mainspring.data.batch import causal_batch
    from mainspring.nn.part import Carried, Part

    depth = len(model.blocks())
    part = Part(rank * depth // RANKS, (rank + 1) * depth // RANKS, depth)

    class Half(torch.nn.Module):
        """One stage's layers."""

        def __init__(self) -> None:
            super().__init__()
            self.held = torch.nn.ModuleList(model.blocks()[part.start : part.stop])
            self.beside = torch.nn.ModuleList(model.outside(part))

        def forward(self, x: Any) -> Any:
            """Token ids [B, T] or hidden states [B, T, D] -> hidden states or logits."""
            if part.first:
                return model(causal_batch(x), part=part, carried=None).x
            ids = torch.zeros(x.shape[:2], dtype=torch.int64)
            return model(causal_batch(ids), part=part, carried=Carried(x)).logits

    half = Half()
    optimizer = torch.optim.AdamW(half.parameters(), lr=1e-4, fused=True)
    stage = PipelineStage(half, rank, RANKS, torch.device("cpu"))

    def loss(logits: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    schedule = Schedule1F1B(stage, n_microbatches=ROWS, loss_fn=loss)

    def step(ids: Any) -> None:
        if part.first:
            schedule.step(ids[:, :-1].contiguous())
        else:
            schedule.step(target=ids[:, 1:].contiguous(), losses=[])
        optimizer.step()
        optimizer.zero_grad()

    return step


def child(turn: int, out: Path) -> None:
    """One rank: every engine in its turn; leaves the seconds of a step of each."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    names = [*OURS, *PEERS]
    generator, found = torch.Generator().manual_seed(0), {}
    for engine in names[turn % len(names) :] + names[: turn % len(names)]:
        step = ours(engine) if engine in OURS else torch_peer(engine)
        seconds = []
        for _ in range(WARM + STEPS):
            ids = torch.randint(VOCABULARY, (ROWS, SEQUENCE + 1), generator=generator)
            dist.barrier()
            began = time.perf_counter()
            step(ids)
            seconds.append(time.perf_counter() - began)
        found[engine] = median(seconds[WARM:])
        del step
        gc.collect()
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # gloo's threads have been seen to wait for each other at the end of a process


def measure(turn: int) -> list[dict[str, Any]]:
    """A round: tokens/s of every engine."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}",
            "-m", "benchmarks.axes", "--child", str(turn), out,
        ]  # fmt: skip
        here = Path(__file__).parents[1]
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "PYTHONPATH": f"{here}:{here / 'src'}",
        }  # fmt: skip
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        if ran.returncode:
            raise RuntimeError(f"{ran.stdout[-1000:]}{ran.stderr[-3000:]}")
        ranks = [json.loads(path.read_text()) for path in Path(out).glob("*.json")]
    print(f"round {turn + 1}: {time.perf_counter() - began:.0f} s", flush=True)
    return [{e: ROWS * SEQUENCE / max(rank[e] for rank in ranks) for e in ranks[0]}]


def main() -> int:
    """Run the benchmark: five rounds (with --quick one)."""
    arguments = options(__doc__.splitlines()[0], parts=True)
    rounds = 1 if arguments.quick else 5
    runs = [resume(arguments.parts, f"round {t + 1}", partial(measure, t))[0] for t in range(rounds)]
    rate = {engine: median([run[engine] for run in runs]) for engine in runs[0]}
    base = {engine: "experts on each rank" if engine.startswith("experts") else "data" for engine in rate}
    rows = [
        {
            "engine": engine if engine in PEERS else f"mainspring {engine}",
            "tokens/s": round(rate[engine], 1),
            "x data parallel": round(rate[engine] / rate[base[engine]], 2),
            "tokens/s of each round": [round(run[engine]) for run in runs],
        }
        for engine in [*OURS, *PEERS]
    ]
    bars = [Bar(f"{mine} / {peer}", rate[mine] / rate[peer], 1.0) for mine, peer in PAIRS.items()]
    return finish(
        "axes",
        title="Every axis on two ranks",
        rows=rows,
        bars=bars,
        notes=[
            f"{ROWS} rows of {SEQUENCE} tokens a step, pipelines in {ROWS} micro-batches; d_model "
            f"{SHAPE['d_model']}, {SHAPE['n_layers']} layers, {VOCABULARY} tokens; 8 experts in every other "
            "layer, one a token, beside the same experts on each rank; fp32, ZeRO 0, one thread a rank; "
            f"median of {rounds} rounds of {STEPS} steps",
            "torch's context parallelism does not run on CPU, and it has no expert parallelism",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    if "--child" in sys.argv:
        at = sys.argv.index("--child")
        child(int(sys.argv[at + 1]), Path(sys.argv[at + 2]))
    else:
        sys.exit(main())
