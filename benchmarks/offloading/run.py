"""One run in this process: a GPT trained on a few tokens, its states in memory, on the host or on disk.

    python -m benchmarks.offloading.run WHERE LAYERS STEPS FOLDER LIMIT PRECISION

WHERE is "memory", "host", "disk" or "deepspeed nvme"; with a LIMIT the process may have so many more bytes of
data (RLIMIT_DATA) than after its imports and a first small run. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.offloading.replay import replay
from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.disk import DiskPlacement
from mainspring.parallel.offload import HostPlacement
from mainspring.parallel.zero import Resident

WIDTH, VOCAB, LENGTH = 512, 8192, 64


def config(layers: int) -> TransformerConfig:
    """A GPT of so many layers."""
    return TransformerConfig(
        d_model=WIDTH, n_heads=8, n_layers=layers, d_ff=4 * WIDTH, vocab_size=VOCAB, max_positions=LENGTH
    )


def loss_of(model: Callable[[Any], Any], generator: torch.Generator) -> torch.Tensor:
    """Mean loss of a row of random tokens."""
    ids = torch.randint(0, VOCAB, (1, LENGTH + 1), generator=generator)
    logits = model(causal_batch(ids[:, :-1])).logits
    return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def ours(where: str, layers: int, steps: int, folder: str, precision: Any) -> dict[str, Any]:
    """Our engine in a placement: seconds of a step, and bytes that it moved."""
    with torch.device("meta"):
        model = Transformer(config(layers))
    count = sum(p.numel() for p in model.parameters())
    kinds = {"disk": lambda: DiskPlacement(folder), "host": HostPlacement, "memory": Resident}
    placement = kinds[where]()
    parallel.apply(model, Plan(zero=3), precision=precision, reduce="sum", placement=placement)
    parallel.materialize(model, "cpu", lambda module: initialize(module, seed=1))
    optimizer = optim.build(model, OptimConfig(lr=1e-4))
    generator, seconds, passes, moved = torch.Generator().manual_seed(0), [], [], []
    for _ in range(steps):
        read, written = _moved(placement)
        began = time.perf_counter()
        loss_of(model, generator).backward()
        passed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(placement, DiskPlacement):
            placement.store.flush()
        seconds.append(time.perf_counter() - began)
        passes.append(passed - began)
        now = _moved(placement)
        moved.append((now[0] - read, now[1] - written))
    direct = {}
    if isinstance(placement, DiskPlacement):
        direct = {"direct": placement.store.direct}
        placement.close()
    return {
        "parameters": count,
        "seconds": _median(seconds[1:]),
        "passes": _median(passes[1:]),
        "read": moved[-1][0],
        "written": moved[-1][1],
        **direct,
    }


def deepspeed_nvme(layers: int, steps: int, folder: str, precision: Any, limit: int) -> dict[str, Any]:
    """DeepSpeed's ZeRO-Infinity: parameters and optimizer states on the same folder.

    Each of its buffers has room for the largest parameter, and one is taken for every parameter on its way:
    those of three layers where memory is free, where it is limited of one. In fp32 only its optimizer's
    states go there: parameters that a step has updated keep their buffers (DeepSpeed 0.19.8), and the next
    forward finds none.
    """
    import deepspeed

    whole = VOCAB * WIDTH  # the largest parameter has to fit a buffer
    live, ahead, buffers = (1, 0, 16) if limit else (2 * whole, 2**22, 40)
    parameters = {
        "device": "nvme", "nvme_path": folder, "buffer_count": buffers, "buffer_size": whole, "max_in_cpu": 0
    }  # fmt: skip
    aio = {"block_size": 2**20, "queue_depth": 8, "thread_count": 1, "single_submit": False}
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "aio": {**aio, "overlap_events": True},
        "zero_optimization": {
            "stage": 3,
            "sub_group_size": 2**22,
            "stage3_prefetch_bucket_size": ahead,
            "stage3_max_live_parameters": live,
            "stage3_param_persistence_threshold": 0,
            **({"offload_param": parameters} if precision == "bf16" else {}),
            "offload_optimizer": {
                "device": "nvme", "nvme_path": folder, "buffer_count": 12, "pipeline_read": True,
                "pipeline_write": True,
            },
        },
    }  # fmt: skip
    with deepspeed.zero.Init(
        config_dict_or_path=settings, remote_device="nvme" if precision == "bf16" else "cpu"
    ):
        model = Transformer(config(layers))
    for parameter in model.parameters():
        with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0), torch.no_grad():
            parameter.normal_(0, 0.02)
    count = sum(p.ds_numel for p in model.parameters())
    optimizer = deepspeed.ops.adam.DeepSpeedCPUAdam(model.parameters(), lr=1e-4)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    generator, seconds, passes = torch.Generator().manual_seed(0), [], []
    for _ in range(steps):
        began = time.perf_counter()
        engine.backward(loss_of(engine, generator))
        passed = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - began)
        passes.append(passed - began)
    return {"parameters": count, "seconds": _median(seconds[1:]), "passes": _median(passes[1:])}


def main() -> None:
    """Arguments as the module says."""
    where, folder, precision = sys.argv[1], sys.argv[4], sys.argv[6]
    layers, steps, limit = (int(sys.argv[at]) for at in (2, 3, 5))
    torch.set_num_threads(1)
    if where == "deepspeed nvme":
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)

    def run(layers: int, steps: int) -> dict[str, Any]:
        if where == "deepspeed nvme":
            return deepspeed_nvme(layers, steps, folder, precision, limit)
        return ours(where, layers, steps, folder, precision)

    if where != "deepspeed nvme":
        ours("memory", 1, 2, folder, precision)  # kernels and their buffers
    if limit:
        status = Path("/proc/self/status").read_text().splitlines()
        data = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (data + limit, resource.RLIM_INFINITY))
    result = run(layers, steps)
    if where == "disk" and not limit:
        result["disk_seconds"] = replay(folder, result["read"], result["written"], direct=result["direct"])
    print(json.dumps(result), flush=True)
    os._exit(0)  # threads of a peer have been seen to wait for each other at the end of a process


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _moved(placement: Any) -> tuple[int, int]:
    store = getattr(placement, "store", None)
    return (0, 0) if store is None else (store.bytes_read, store.bytes_written)


if __name__ == "__main__":
    main()
