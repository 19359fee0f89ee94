"""Calibration: micro-benchmarks of this machine with all its ranks at work, kept for the next plan.

Ranks are processes, as they are in a run, and time their probes between barriers, so that what they take from
each other (cores, memory, links) is in the rates. The result is a `Device`, in a file named for what it
depends on: processor, cores, ranks, threads, torch and this package.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

import mainspring
from mainspring import comm
from mainspring.config import parse
from mainspring.errors import PlanError
from mainspring.parallel.world import child_environment, usable_cores
from mainspring.planner import probes
from mainspring.planner.candidate import Candidate
from mainspring.planner.cost import PASSES, cost
from mainspring.planner.device import Device
from mainspring.planner.inventory import inventory_of
from mainspring.planner.machine import RUNTIME_BYTES
from mainspring.planner.memory import available_disk, available_memory
from mainspring.planner.processor import cpu_model, fast_instructions, multiplies_bf16
from mainspring.planner.state_probe import pass_seconds, state_seconds
from mainspring.planner.work import work_of

SIZES = (2**16, 2**23)
"""Bytes at which collectives are timed; a line through the two gives latency and bandwidth."""
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
EMULATED = 2
"""Widths that are timed in a precision that the processor emulates: wide products would take minutes."""
TIMEOUT = 300
"""Seconds that a measurement may take."""
PROGRAM = "from mainspring.planner.calibrate import work; work()"
"""What a rank of the measurement runs."""


def cache_folder() -> Path:
    """Where calibrations are kept."""
    return Path.home() / ".cache" / "mainspring" / "machines"


def fingerprint(ranks: int, threads: int) -> str:
    """Hash of what a calibration depends on."""
    facts = [
        cpu_model(),
        torch.backends.cpu.get_cpu_capability(),  # a name stands for several processors
        *fast_instructions(),
        usable_cores(),
        ranks,
        threads,
        torch.__version__,
        mainspring.__version__,
        platform.machine(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def calibrated(
    ranks: int = 1, threads: int = 0, *, folder: Path | None = None, fresh: bool = False
) -> Device:
    """This machine as the device of each of `ranks` ranks: from its file, else measured in half a minute.

    A file that cannot be read, or is of another form, is measured anew. What is free in memory and on disk is
    that of now.

    Args:
        ranks: that share this machine.
        threads: compute threads of each; 0 shares the cores evenly.
        folder: of the files; None: under the user's cache.
        fresh: measure although there is a file.

    Raises:
        PlanError: a rank of the measurement failed.
    """
    threads = threads or max(1, usable_cores() // ranks)
    path = (folder or cache_folder()) / f"cpu-{ranks}x{threads}-{fingerprint(ranks, threads)}.json"
    kept = None if fresh else _read(path)
    if kept is not None:
        return kept.replace(memory=available_memory() // ranks, disk=available_disk() // ranks)
    found = measure(ranks, threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(found.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return found


def _read(path: Path) -> Device | None:
    try:
        return parse(Device, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # ConfigError is one
        return None


def measure(ranks: int, threads: int) -> Device:
    """Measure with `ranks` processes at once.

    Raises:
        PlanError: one of them failed, or they took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        children = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(rank), str(ranks), str(threads), folder],
                env=child_environment(threads),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            told = [child.communicate(timeout=TIMEOUT)[1] for child in children]
        except subprocess.TimeoutExpired as error:
            raise PlanError(
                f"the calibration of {ranks} ranks did not end within {TIMEOUT} s: stop what else this "
                "machine computes and try again, or plan for a device by name (--device)"
            ) from error
        finally:
            for child in children:  # those that have ended do not mind
                child.kill()
                child.communicate()
        if any(child.returncode for child in children):
            last = next(t for t, c in zip(told, children, strict=True) if c.returncode).strip().splitlines()
            raise PlanError(f"a rank of the calibration failed: {last[-1] if last else 'without a word'}")
        return parse(Device, json.loads(result.read_text(encoding="utf-8")))


def work() -> None:
    """One rank of a calibration; arguments: rank, ranks, threads, folder."""
    rank, ranks, threads = (int(a) for a in sys.argv[1:4])
    folder = Path(sys.argv[4])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    store = FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    try:
        found = _probe(ranks, threads)
    finally:
        dist.destroy_process_group()
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(found.model_dump(mode="json")), encoding="utf-8")


def _probe(ranks: int, threads: int) -> Device:
    gemm = {
        precision: [
            (width, _together(partial(probes.product_rate, precision, width)))
            for width in probes.WIDTHS[: EMULATED if _emulated(precision) else None]
        ]
        for precision in PRECISIONS
    }
    collectives = {}
    for op in ("all_reduce", "reduce_scatter", "all_gather") if ranks > 1 else ():
        small, large = (_slowest(probes.collective(op, ranks, size)) for size in SIZES)
        rate = (SIZES[1] - SIZES[0]) / max(large - small, 1e-9)
        collectives[op] = (max(small - SIZES[0] / rate, 0.0), rate)
    disk = probes.disk_bandwidth(Path(tempfile.gettempdir()))
    flops = {precision: max(rate for _, rate in points) for precision, points in gemm.items()}
    bare = {precision: pass_seconds(precision, ranks, _slowest) for precision in PRECISIONS}
    values = {
        "name": f"{cpu_model()}, {ranks} ranks of {threads} threads",
        "kind": "cpu",
        "flops": flops,
        "efficiency": 1.0,
        "memory": available_memory() // ranks,
        "memory_bandwidth": _together(probes.copy_bandwidth),
        "between_bandwidth": _together(partial(probes.between_bandwidth, PASSES)),
        "reserved": RUNTIME_BYTES,
        "fragmentation": 0.0,
        "ranks_per_node": ranks,
        "link_bandwidth": collectives["all_gather"][1] if collectives else 1e9,
        "network_bandwidth": collectives["all_gather"][1] if collectives else 1e9,
        "latency": collectives["all_gather"][0] if collectives else 0.0,
        "overlap": 0.0,
        "disk": available_disk() // ranks,
        "disk_bandwidth": min(disk) / ranks,
        "sources": ("measured by mainspring.planner.calibrate",),
        "gemm": gemm,
        "attention": {p: _together(partial(probes.attention_rate, p)) for p in PRECISIONS},
        "logits_bandwidth": _together(partial(probes.logits_bandwidth, 512)),
        "large_logits_bandwidth": _together(partial(probes.logits_bandwidth, 1280)),
        "page_bandwidth": _together(probes.page_bandwidth),
        "update_rate": _together(probes.update_rate),
        "collectives": collectives,
        "states": {
            f"{precision} {zero}": state_seconds(zero, precision, bare[precision], ranks, _slowest)
            for precision in PRECISIONS
            for zero in (range(4) if ranks > 1 else (0,))
        },
    }
    device = parse(Device, json.loads(json.dumps(values)))
    scale = {
        precision: [
            (rows * probes.REFERENCE.max_positions, _scale(device, precision, rows))
            for rows in probes.REFERENCE_ROWS[: 1 if _emulated(precision) else None]
        ]
        for precision in PRECISIONS
    }
    return parse(Device, json.loads(json.dumps({**values, "compute_scale": scale})))


def _emulated(precision: str) -> bool:
    return precision == "bf16" and not multiplies_bf16()


def _scale(device: Device, precision: Literal["fp32", "bf16"], rows: int) -> float:
    """Seconds of the reference model over what its parts come to, in micro-batches of so many rows."""
    comm.barrier(name="probe")
    seconds = _slowest(probes.reference_seconds(precision, rows))
    inventory, work = (
        inventory_of(probes.REFERENCE),
        work_of(probes.REFERENCE, probes.REFERENCE.max_positions),
    )
    one = Candidate(data=2, zero=1, micro_rows=rows)  # 16 bits throughout, as it ran
    expected = cost(inventory, work, one, device, precision).seconds
    return seconds / (expected["matrix products"] + expected["other compute"])


def _together(probe: Callable[[], float]) -> float:
    """The slowest rank's rate, all beginning at once."""
    comm.barrier(name="probe")
    return -_slowest(-probe())


def _slowest(value: float) -> float:
    told = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return float(told)
