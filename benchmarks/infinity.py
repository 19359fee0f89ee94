"""The disk tier: step time beside memory and beside what the disk allows; the largest model in a fixed limit.

    python -m benchmarks.infinity [--quick] [--json PATH] [--parts PATH] [--deepspeed PYTHON]

Every run is a process of its own with one thread (`benchmarks.offloading.run`) that trains a GPT on a few
tokens, so that traffic counts and arithmetic does not hide it; in bf16 where the processor multiplies that,
else in fp32. The bound is the time in which the same folder takes and gives the bytes of a step with nothing
to compute (`benchmarks.offloading.replay`), in the same round. DeepSpeed's offload to NVMe runs
from an environment of its own, on the same folder. Where there is a GPU, `benchmarks.offloading.gpu` adds the
largest model and tokens a second on it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, interleave, median, multiplies_bf16, options, resume
from benchmarks.zero import ENVIRONMENT

LIMIT = 512 * 2**20
"""Bytes of data that a process may have beyond its imports, for the largest model."""
ALLOWED = 0.7
LARGER = {"bf16": 4.0, "fp32": 3.0}
"""How many times larger a model should fit with its states on disk. Gradients stay in memory: of 16 bytes a
parameter 2 do in bf16, 4 in fp32, so that there 4 times is what no program could pass."""
PEER = "deepspeed nvme"
PATIENCE = 200
"""Seconds that a run may take."""


def start(
    where: str,
    layers: int,
    steps: int,
    folder: str,
    precision: str,
    limit: int = 0,
    python: Path | None = None,
) -> dict[str, Any] | None:
    """A run in a process of its own; None where it does not fit the limit.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    arguments = [where, layers, steps, folder, limit, precision]
    here = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if where == PEER:
        assert python is not None
        environment |= {
            "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29571", "DS_ACCELERATOR": "cpu", "PYTHONPATH": f"{here}:{here / 'src'}",
            "TORCH_EXTENSIONS_DIR": str(python.parents[2] / "torch_extensions"),
            "PATH": f"{python.parent}:{os.environ['PATH']}",
        }  # fmt: skip
    command = [str(python or sys.executable), "-m", "benchmarks.offloading.run", *map(str, arguments)]

    def small_stacks() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (2**20, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, preexec_fn=small_stacks, timeout=PATIENCE
    )
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result
    full = ("MemoryError", "allocate memory", "bad_alloc", "pinned_buffer")
    if limit and any(word in done.stderr for word in full):
        return None
    raise RuntimeError(f"{where}: {done.stdout[-1000:]}{done.stderr[-3000:]}")


def largest(trial_of: Callable[[int], dict[str, Any] | None], most: int) -> dict[str, Any]:
    """Layers and parameters of the largest model that does two steps within the limit, to a tenth.

    Args:
        trial_of: a run of so many layers.
        most: layers beyond which nothing is tried.
    """
    fits, fails, parameters = 0, most + 1, 0
    trial = max(2, most // 8)
    while fails - fits > max(1, fits // 10):
        found = trial_of(trial)
        if found is None:
            fails = trial
        else:
            fits, parameters = trial, found["parameters"]
        trial = min(2 * fits, most) if fails > most and fits < most else (fits + fails) // 2
        if fits == most:
            break
    return {"layers": fits, "parameters": parameters}


def once(name: str, run: Callable[[], dict[str, Any] | None]) -> list[dict[str, Any]]:
    """What a run found, with its turn told; nothing where it does not fit."""
    (found,) = interleave(1, {name: run})[name]
    return [] if found is None else [found]


def gpu_rows(folder: str, deepspeed: Path) -> list[dict[str, Any]]:
    """Of one GPU, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return []
    from benchmarks.offloading import gpu

    return gpu.rows(folder, deepspeed, largest)


def main() -> int:
    """Run all and write the result."""
    python = ENVIRONMENT
    if "--deepspeed" in sys.argv:
        at = sys.argv.index("--deepspeed")
        python = Path(sys.argv[at + 1])
        del sys.argv[at : at + 2]
    arguments = options((__doc__ or "").splitlines()[0], parts=True)
    precision = "bf16" if multiplies_bf16() else "fp32"
    layers, steps, rounds = (8, 3, 1) if arguments.quick else (32, 5, 5)
    limit, most = (192 * 2**20, 16) if arguments.quick else (LIMIT, 160)
    peers = (PEER,) if python.exists() and not arguments.quick else ()
    with tempfile.TemporaryDirectory(prefix="infinity-", dir=os.environ.get("TMPDIR")) as folder:

        def run(where: str, layers: int, steps: int, limit: int = 0) -> dict[str, Any] | None:
            interpreter = python if where == PEER else None
            return start(where, layers, steps, folder, precision, limit, interpreter)

        def keep(key: str, measure: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
            return resume(arguments.parts, key, measure)

        found: dict[str, list[dict[str, Any]]] = {}
        for turn in range(rounds):
            for where in ("memory", "disk", *peers):
                ran = keep(f"{where} {turn + 1}", partial(once, where, partial(run, where, layers, steps)))
                found.setdefault(where, []).extend(ran)
        sizes: dict[str, dict[str, Any]] = {}
        for where in ("memory", "host", "disk", *peers):

            def trial_of(layers: int, where: str = where) -> dict[str, Any] | None:
                ran = keep(
                    f"{where}, {layers} layers",
                    lambda: once(f"{where}, {layers} layers", partial(run, where, layers, 2, limit)),
                )
                return ran[0] if ran else None

            sizes[where] = largest(trial_of, most)
        on_gpu = gpu_rows(folder, python) if not arguments.quick else []
    in_memory = median([one["seconds"] for one in found["memory"]])
    fractions, alone = [], []
    for one in found["disk"]:
        fractions.append(max(one["disk_seconds"], in_memory) / one["seconds"])
        alone.append(one["disk_seconds"])
    disk = found["disk"]
    rows = [
        {
            "run": where,
            "precision": precision,
            "parameters": runs[0]["parameters"],
            "step_seconds": median([one["seconds"] for one in runs]),
            "forward_backward_seconds": median([one["passes"] for one in runs]),
            "seconds of each round": [round(one["seconds"], 2) for one in runs],
        }
        for where, runs in found.items()
    ]
    rows[1] |= {
        "disk_gb_per_s": median([(one["read"] + one["written"]) / one["disk_seconds"] for one in disk]) / 1e9,
        "bytes_per_parameter": (disk[0]["read"] + disk[0]["written"]) / disk[0]["parameters"],
        "traffic_seconds": median(alone),
        "of_the_bound": median(fractions),
        "direct": disk[0]["direct"],
    }
    rows += [
        {"run": f"largest, {where}", "limit_mib": limit // 2**20, **size} for where, size in sizes.items()
    ]
    rows += on_gpu
    bars = [
        Bar("share of the step time that the disk's bandwidth allows", median(fractions), ALLOWED),
        Bar(
            "largest model on disk over in memory, same limit",
            sizes["disk"]["parameters"] / max(sizes["memory"]["parameters"], 1),
            LARGER[precision],
        ),
    ]
    notes = [
        f"One row of 64 tokens, one thread, {precision}; medians of {rounds} rounds, all in turn.",
        "The limit is RLIMIT_DATA over what the imports take: heap and private pages, resident or not.",
        "Where the device is the CPU, offload to the host has the device's memory: its largest model is not "
        "larger than without; on a GPU it is.",
        "The bound is max(step in memory, the time in which plain threads read and write as many bytes as a "
        "step does, side by side, after training on the same folder): disks of virtual machines give more "
        "for the first gigabyte than they keep up.",
    ]
    if peers and precision == "fp32":
        notes.append(
            "DeepSpeed has its optimizer's states on the folder and its parameters in memory: in fp32 those "
            "on NVMe keep their buffers after a step, and its next forward finds none."
        )
    if peers and not sizes[PEER]["parameters"]:
        notes.append("DeepSpeed's buffers alone do not fit the limit.")
    if not peers:
        notes.append(f"DeepSpeed's NVMe offload is not run here: {'--quick' if arguments.quick else python}.")
    return finish(
        "infinity",
        title="States on disk beside memory",
        rows=rows,
        bars=bars,
        notes=notes,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
