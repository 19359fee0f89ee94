"""The disk tier: step time beside memory and beside what the disk allows; the largest model in a fixed limit.

    python -m benchmarks.infinity [--quick] [--json PATH]

Every run is a process of its own with one thread that trains a GPT in bf16 on a few tokens, so that traffic
counts and arithmetic does not hide it. The bound is the bytes that the step moves over the rates that the
same folder gives in the same round (`parallel.disk.preflight`: reads and writes of large aligned blocks).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, interleave, median, options

WIDTH, VOCAB, LENGTH = 512, 8192, 64
LIMIT = 512 * 2**20
"""Bytes of data that a process may have beyond its imports, for the largest model."""
ALLOWED = 0.7


def _train(where: str, layers: int, steps: int, folder: str, limit: int) -> dict[str, Any]:
    """One run in this process."""
    import torch
    import torch.nn.functional as F

    from mainspring import optim, parallel
    from mainspring.data.batch import causal_batch
    from mainspring.nn import Transformer, TransformerConfig, initialize
    from mainspring.optim import OptimConfig
    from mainspring.parallel import Plan
    from mainspring.parallel.disk import DiskPlacement, preflight
    from mainspring.parallel.offload import HostPlacement
    from mainspring.parallel.zero import Resident

    torch.set_num_threads(1)

    def run(where: str, layers: int, steps: int) -> dict[str, Any]:
        config = TransformerConfig(
            d_model=WIDTH, n_heads=8, n_layers=layers, d_ff=4 * WIDTH, vocab_size=VOCAB, max_positions=LENGTH
        )
        with torch.device("meta"):
            model = Transformer(config)
        count = sum(p.numel() for p in model.parameters())
        kinds = {"disk": lambda: DiskPlacement(folder), "host": HostPlacement, "memory": Resident}
        placement = kinds[where]()
        parallel.apply(model, Plan(zero=3), precision="bf16", reduce="sum", placement=placement)
        parallel.materialize(model, "cpu", lambda module: initialize(module, seed=1))
        optimizer = optim.build(model, OptimConfig(lr=1e-4))
        generator, seconds, moved = torch.Generator().manual_seed(0), [], []
        for _ in range(steps):
            read, written = _moved(placement)
            began = time.perf_counter()
            ids = torch.randint(0, VOCAB, (1, LENGTH + 1), generator=generator)
            logits = model(causal_batch(ids[:, :-1])).logits
            F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
            if isinstance(placement, DiskPlacement):
                placement.store.flush()
            seconds.append(time.perf_counter() - began)
            now = _moved(placement)
            moved.append((now[0] - read, now[1] - written))
        if isinstance(placement, DiskPlacement):
            placement.close()
        return {
            "parameters": count,
            "seconds": median(seconds[1:]),
            "read": moved[-1][0],
            "written": moved[-1][1],
        }

    run("memory", 1, 2)  # kernels and their buffers
    rates = {}
    if where == "disk" and not limit:
        found = preflight(folder, 0, trial=192 * 2**20)
        rates = {"read_rate": found.read_rate, "write_rate": found.write_rate, "direct": found.direct}
    if limit:
        status = Path("/proc/self/status").read_text().splitlines()
        data = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (data + limit, resource.RLIM_INFINITY))
    return run(where, layers, steps) | rates


def _moved(placement: Any) -> tuple[int, int]:
    store = getattr(placement, "store", None)
    return (0, 0) if store is None else (store.bytes_read, store.bytes_written)


def _start(where: str, layers: int, steps: int, folder: str, limit: int = 0) -> dict[str, Any] | None:
    """A run in a process of its own; None where it does not fit the limit."""
    command = [sys.executable, "-m", "benchmarks.infinity", "--run", where, layers, steps, folder, limit]

    def small_stacks() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (2**20, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=small_stacks,
    )
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result
    if limit and any(word in done.stderr for word in ("MemoryError", "allocate memory")):
        return None
    raise RuntimeError(done.stderr[-3000:])


def _largest(where: str, folder: str, limit: int, most: int) -> tuple[int, int]:
    """Layers and parameters of the largest model that does two steps within the limit."""
    fits, fails, parameters = 0, most + 1, 0
    trial = max(2, most // 8)
    while fails - fits > max(1, fits // 10):
        found = _start(where, trial, 2, folder, limit)
        if found is None:
            fails = trial
        else:
            fits, parameters = trial, found["parameters"]
        trial = min(2 * fits, most) if fails > most and fits < most else (fits + fails) // 2
        if fits == most:
            break
    return fits, parameters


def main() -> int:
    """Run all and write the result."""
    arguments = options(__doc__ or "")
    layers, steps, rounds = (8, 3, 1) if arguments.quick else (32, 5, 5)
    limit, most = (192 * 2**20, 16) if arguments.quick else (LIMIT, 160)
    with tempfile.TemporaryDirectory(prefix="infinity-", dir=os.environ.get("TMPDIR")) as folder:
        runs = interleave(
            rounds,
            {
                "memory": lambda: _start("memory", layers, steps, folder),
                "disk": lambda: _start("disk", layers, steps, folder),
            },
        )
        memory = [run for run in runs["memory"] if run]
        disk = [run for run in runs["disk"] if run]
        sizes = {where: _largest(where, folder, limit, most) for where in ("memory", "host", "disk")}
    in_memory = median([run["seconds"] for run in memory])
    fractions = []
    for run in disk:
        traffic = run["read"] / run["read_rate"] + run["written"] / run["write_rate"]
        fractions.append(max(traffic, in_memory) / run["seconds"])
    rows = [
        {"run": "memory", "parameters": memory[0]["parameters"], "step_seconds": in_memory},
        {
            "run": "disk",
            "parameters": disk[0]["parameters"],
            "step_seconds": median([run["seconds"] for run in disk]),
            "read_gb_per_s": median([run["read_rate"] for run in disk]) / 1e9,
            "write_gb_per_s": median([run["write_rate"] for run in disk]) / 1e9,
            "bytes_per_parameter": (disk[0]["read"] + disk[0]["written"]) / disk[0]["parameters"],
            "of_the_bound": median(fractions),
            "direct": disk[0]["direct"],
        },
        *(
            {
                "run": f"largest, {where}",
                "limit_mib": limit // 2**20,
                "layers": size[0],
                "parameters": size[1],
            }
            for where, size in sizes.items()
        ),
    ]
    bars = [
        Bar("share of the step time that the disk's bandwidth allows", median(fractions), ALLOWED),
        Bar(
            "largest model on disk over in memory, same limit",
            sizes["disk"][1] / max(sizes["memory"][1], 1),
            4.0,
        ),
    ]
    notes = [
        "The limit is RLIMIT_DATA over what the imports take: heap and private pages, resident or not.",
        "Where the device is the CPU, offload to the host has the device's memory: its largest model is not "
        "larger than without; on a GPU it is.",
        "The bound is max(step in memory, bytes read / read rate + bytes written / write rate); rates are "
        "measured in the same process before training, checksums included.",
        "DeepSpeed's NVMe offload is not run here: its async_io is compiled on first use against libaio-dev.",
    ]
    return finish(
        "infinity",
        title="States on disk beside memory",
        rows=rows,
        bars=bars,
        notes=notes,
        arguments=arguments,
    )


if __name__ == "__main__":
    if "--run" in sys.argv:
        where, *numbers = sys.argv[sys.argv.index("--run") + 1 :]
        print(json.dumps(_train(where, int(numbers[0]), int(numbers[1]), numbers[2], int(numbers[3]))))
        sys.exit(0)
    sys.exit(main())
