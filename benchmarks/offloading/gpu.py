"""On one GPU: the largest model that trains, and tokens a second, by where its states are.

    python -m benchmarks.offloading.gpu ENGINE LAYERS STEPS FOLDER

trains a GPT of so many layers and prints one JSON object; it exits with `FULL` where memory was not enough.
`rows` runs every engine so, doubling and halving. Nothing of this has been run: no GPU was at hand when it
was written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.parallel import Plan

WIDTH, VOCAB, LENGTH, ROWS, STEPS = 4096, 32768, 1024, 4, 4
COMMON, MOST = 8, 256
"""Layers at which all are timed; layers beyond which nothing is tried."""
FULL = 3
OURS: dict[str, Callable[[str], Plan]] = {
    "mainspring host": lambda folder: Plan(zero=3, offload="host", remat=True),
    "mainspring disk": lambda folder: Plan(zero=3, offload="disk", offload_folder=folder, remat=True),
}
THEIRS = ("ddp", "fsdp2, cpu offload", "deepspeed host", "deepspeed nvme")

Step = Callable[[Any, torch.Tensor], None]


def config(layers: int) -> TransformerConfig:
    """A GPT of 201 M parameters a layer."""
    return TransformerConfig(
        d_model=WIDTH, n_heads=32, n_layers=layers, d_ff=4 * WIDTH, vocab_size=VOCAB, max_positions=LENGTH
    )


def loss_of(model: Any, batch: Any, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in fp32."""
    return F.cross_entropy(model(batch).logits.float().flatten(0, 1), labels.flatten())


def ours(plan: Plan, layers: int) -> Step:
    """Our engine by a plan."""
    with torch.device("meta"):
        model = Transformer(config(layers))
    parallel.apply(model, plan, precision="bf16")
    parallel.materialize(model, "cuda", lambda m: initialize(m, 0))
    optimizer = optim.build(model, optim.OptimConfig(lr=1e-4))

    def step(batch: Any, labels: torch.Tensor) -> None:
        loss_of(model, batch, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def of_torch(engine: str, layers: int) -> Step:
    """DDP under autocast, or FSDP2 with `CPUOffloadPolicy`; both recompute, as ours do."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
    from torch.nn.parallel import DistributedDataParallel

    model: Any = Transformer(config(layers))
    model.remat = True
    initialize(model, 0)
    if engine == "ddp":
        model = DistributedDataParallel(model.cuda())
    else:
        options: Any = {
            "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16),
            "offload_policy": CPUOffloadPolicy(),
        }
        for block in [*model.blocks(), model]:
            fully_shard(block, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(batch: Any, labels: torch.Tensor) -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=engine == "ddp"):
            loss = loss_of(model, batch, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def of_deepspeed(where: str, layers: int, folder: str) -> Step:
    """DeepSpeed's ZeRO-3 with everything on the host, or on NVMe."""
    import deepspeed

    offload = {"device": "cpu", "pin_memory": True}
    if where == "nvme":
        offload = {"device": "nvme", "nvme_path": folder, "pin_memory": True, "buffer_size": WIDTH * VOCAB}
    settings = {
        "train_micro_batch_size_per_gpu": ROWS,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": 3,
            "offload_param": offload,
            "offload_optimizer": {k: v for k, v in offload.items() if k != "buffer_size"},
        },
    }
    with deepspeed.zero.Init(config_dict_or_path=settings):
        model = Transformer(config(layers))
    model.remat = True
    for parameter in model.parameters():
        with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0), torch.no_grad():
            parameter.normal_(0, 0.02)
    optimizer = deepspeed.ops.adam.DeepSpeedCPUAdam(model.parameters(), lr=1e-4)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)

    def step(batch: Any, labels: torch.Tensor) -> None:
        engine.backward(loss_of(engine, batch, labels))
        engine.step()

    return step


def main() -> int:
    """One run, as the module says."""
    engine, layers, steps, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        if engine in OURS:
            step = ours(OURS[engine](folder), layers)
        elif engine.startswith("deepspeed"):
            step = of_deepspeed(engine.split()[1], layers, folder)
        else:
            step = of_torch(engine, layers)
        seconds = []
        for _ in range(steps):
            ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), device="cuda")
            torch.cuda.synchronize()
            began = time.perf_counter()
            step(causal_batch(ids[:, :-1]), ids[:, 1:])
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    except (torch.OutOfMemoryError, MemoryError):
        return FULL
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Transformer(config(layers)).parameters())
    best = sorted(seconds[1:])[len(seconds[1:]) // 2]
    print(json.dumps({"parameters": parameters, "tokens_per_second": ROWS * LENGTH / best}), flush=True)
    return 0


def run(engine: str, python: Path, folder: str, layers: int, steps: int) -> dict[str, Any] | None:
    """A run in a process of its own; None where it does not fit (a host that is full kills it)."""
    here = Path(__file__).parents[2]
    command = [str(python), "-m", "benchmarks.offloading.gpu", engine, str(layers), str(steps), folder]
    environment = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29572", "RANK": "0", "LOCAL_RANK": "0",
        "WORLD_SIZE": "1", "PYTHONPATH": f"{here}:{here / 'src'}",
    }  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode in (FULL, -9):
        return None
    if done.returncode:
        raise RuntimeError(f"{engine}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(
    folder: str,
    deepspeed: Path,
    largest: Callable[[Callable[[int], dict[str, Any] | None], int], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Of every engine that is there: tokens a second at a common size, and the largest model.

    Args:
        folder: of states on disk.
        deepspeed: the interpreter that has DeepSpeed; without one its rows are left out.
        largest: finds it (`benchmarks.infinity.largest`).
    """
    found = []
    for engine in (*OURS, *THEIRS):
        python = deepspeed if engine.startswith("deepspeed") else Path(sys.executable)
        if not python.exists():
            continue
        common = run(engine, python, folder, COMMON, STEPS)
        most = largest(partial(run, engine, python, folder, steps=2), MOST)
        rate = None if common is None else round(common["tokens_per_second"], 1)
        found.append({"run": f"one GPU: {engine}", f"tokens/s at {COMMON} layers": rate, **most})
    return found


if __name__ == "__main__":
    sys.exit(main())
