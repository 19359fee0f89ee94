"""A program that trains a GPT in memory or through the disk tier, under a limit that the kernel enforces.

    python disk_training.py WHERE FOLDER LAYERS LIMIT_MIB

WHERE is "memory" or "disk". With a limit, the process may have that much more data (RLIMIT_DATA: heap and
private writable pages, resident or not) than after its imports and a first use of torch's kernels. It prints
one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.zero import Resident

WIDTH, VOCAB, LENGTH, STEPS = 320, 4096, 32, 3


def config(layers: int) -> TransformerConfig:
    return TransformerConfig(
        d_model=WIDTH, n_heads=5, n_layers=layers, d_ff=4 * WIDTH, vocab_size=VOCAB, max_positions=LENGTH
    )


def of_process(key: str) -> int:
    """A count of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def train(layers: int, where: str, folder: str) -> dict[str, object]:
    with torch.device("meta"):
        model = Transformer(config(layers))
    count = sum(p.numel() for p in model.parameters())
    spread = {"offload": "disk", "offload_folder": folder} if where == "disk" else {}
    placement = Resident() if where == "memory" else None
    parallel.apply(model, Plan(zero=3, **spread), precision="bf16", reduce="sum", placement=placement)
    parallel.materialize(model, "cpu", lambda module: initialize(module, seed=1))
    optimizer = optim.build(model, OptimConfig(lr=1e-3, compiled=False))
    generator, losses, seconds = torch.Generator().manual_seed(0), [], []
    for _ in range(STEPS):
        began = time.perf_counter()
        ids = torch.randint(0, VOCAB, (1, LENGTH + 1), generator=generator)
        logits = model(causal_batch(ids[:, :-1])).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        parallel.clip_grad_norm(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
    return {"parameters": count, "losses": losses, "seconds": seconds}


def main() -> None:
    where, folder, layers, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    train(2, "memory", folder)  # kernels, their buffers and threads are there
    before, resident = of_process("VmData"), of_process("VmRSS")
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (before + limit * 2**20, resource.RLIM_INFINITY))
    try:
        found = train(layers, where, folder)
    except (MemoryError, OSError, RuntimeError) as error:
        found = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps(found | {"resident": of_process("VmHWM") - resident, "limit": limit * 2**20}))


if __name__ == "__main__":
    main()
