"""Predicted and measured: seconds of a step of six plans on 2 and 4 ranks, and bytes of two large models.

    python -m benchmarks.planner [--quick] [--json PATH] [--parts PATH]

The rates behind the prediction are measured by `mainspring.planner.calibrate` just before and just after, and
the two predictions' mean counts, so that a machine whose speed drifts is the same in both. Every plan has the
same global batch; the ranks run all plans in turn, one step each a round, and the median counts. On fewer
cores than ranks, ranks take turns in both. A fake world counts the bytes, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness

PLANS: dict[str, dict[str, Any]] = {
    "zero 0": {"zero": 0, "accumulation": 1},
    "zero 1": {"zero": 1, "accumulation": 1},
    "zero 2, 4 micro-batches": {"zero": 2, "accumulation": 4},
    "zero 2, 8 micro-batches": {"zero": 2, "accumulation": 8},
    "zero 3, recomputing": {"zero": 3, "accumulation": 1, "remat": True},
    "zero 3, 4 micro-batches, recomputing": {"zero": 3, "accumulation": 4, "remat": True},
}
SEQ_LEN, ROWS = 128, 32
SHAPE = {"d_model": 256, "n_layers": 4, "n_heads": 4, "vocab_size": 8192, "max_positions": SEQ_LEN}


def config() -> Any:
    """The network that is timed."""
    from mainspring.models.gpt2.config import gpt2

    return gpt2(**SHAPE)  # type: ignore[arg-type]


def worker(rank: int, ranks: int, rounds: int, precision: str, folder: Path) -> None:
    """One rank: every plan in turn."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F

    from mainspring import optim, parallel
    from mainspring.data.batch import causal_batch
    from mainspring.nn import Transformer, initialize
    from mainspring.optim.config import OptimConfig
    from mainspring.parallel import Plan

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), ranks), rank=rank, world_size=ranks
    )
    steps = {}
    for name, options in PLANS.items():
        plan = Plan(data=ranks, zero=options["zero"], remat=options.get("remat", False))
        with torch.device("meta"):
            model = Transformer(config())
        parallel.apply(model, plan, precision=precision)  # type: ignore[arg-type]
        parallel.materialize(model, "cpu", lambda m: initialize(m, 0) and None)
        optimizer = optim.build(model, OptimConfig())
        micro = options["accumulation"]
        ids = torch.randint(0, 8192, (micro, ROWS // ranks // micro, SEQ_LEN + 1))

        def step(model: Any = model, optimizer: Any = optimizer, ids: Any = ids) -> None:
            for index, part in enumerate(ids):
                last = index == len(ids) - 1
                with nullcontext() if last else parallel.no_sync(model):
                    logits = model(causal_batch(part[:, :-1])).logits.float().flatten(0, 1)
                    F.cross_entropy(logits, part[:, 1:].flatten()).backward()
            parallel.clip_grad_norm(model, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        steps[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            dist.barrier()
            began = time.perf_counter()
            step()
            dist.barrier()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    if rank == 0:
        medians = {name: harness.median(times) for name, times in seconds.items()}
        (folder / "seconds.json").write_text(json.dumps(medians))
    dist.destroy_process_group()


def measured(ranks: int, rounds: int, precision: str) -> dict[str, float]:
    """Median seconds of a step of every plan."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.planner", "--worker"]
        children = [
            subprocess.Popen(
                [*command, str(rank), str(ranks), str(rounds), precision, folder],
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
            for rank in range(ranks)
        ]
        try:
            codes = [child.wait(600) for child in children]
        finally:
            for child in children:
                child.kill()
        if any(codes):
            raise SystemExit(f"a rank failed: {codes}")
        found: dict[str, float] = json.loads((Path(folder) / "seconds.json").read_text())
        return found


def predicted(ranks: int, precision: Any, device: Any) -> dict[str, Any]:
    """What the planner says of every plan."""
    from mainspring.planner import Candidate, cost, inventory_of, work_of

    inventory, work = inventory_of(config()), work_of(config(), SEQ_LEN)
    result = {}
    for name, options in PLANS.items():
        micro = options["accumulation"]
        candidate = Candidate(
            data=ranks,
            zero=options["zero"],
            kept="input" if options.get("remat") else "all",
            micro_rows=ROWS // ranks // micro,
            accumulation=micro,
        )
        result[name] = cost(inventory, work, candidate, device, precision)
    return result


def timed(ranks: int, precision: str, rounds: int) -> list[dict[str, Any]]:
    """A row for every plan: measured, and predicted from calibrations just before and just after."""
    from mainspring.planner import calibrated

    took: list[float] = []

    def device() -> Any:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = calibrated(ranks, 1, folder=Path(folder), fresh=True)
        took.append(time.perf_counter() - began)
        return found

    before = predicted(ranks, precision, device())
    found = measured(ranks, rounds, precision)
    after = predicted(ranks, precision, device())
    rows = []
    for name in PLANS:
        both = (before[name], after[name])
        seconds = sum(cost.seconds_per_step for cost in both) / 2
        kinds = {kind: sum(cost.seconds[kind] for cost in both) / 2 for kind in both[0].seconds}
        rows.append(
            {
                "plan": f"{name}, {ranks} ranks, {precision}",
                "predicted_s": seconds,
                "measured_s": found[name],
                "ratio": seconds / found[name],
                "predicted before, after": [round(cost.seconds_per_step, 3) for cost in both],
                **{f"{kind}_s": seconds for kind, seconds in kinds.items() if seconds},
                "calibration_s": sum(took) / 2,
            }
        )
    return rows


def counted(label: str) -> list[dict[str, Any]]:
    """A row with the bytes of a rank, predicted and counted in a fake world, by a process of its own."""
    model, plan = VERIFIED[label]
    program = (
        "import json; from dataclasses import asdict; from mainspring.planner import Candidate, verify; "
        "from mainspring.planner import presets; "
        f"print(json.dumps(asdict(verify(presets.{model}, Candidate(**{plan!r})))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    checked = json.loads(done.stdout)
    predicted_bytes, counted_bytes = (sum(checked[k].values()) for k in ("predicted", "counted"))
    return [
        {
            "plan": label,
            "predicted_bytes": predicted_bytes,
            "counted_bytes": counted_bytes,
            "ratio": predicted_bytes / counted_bytes,
            "seconds": checked["seconds"],
            "resident_gib": checked["resident"] / 2**30,
        }
    ]


VERIFIED: dict[str, tuple[str, dict[str, Any]]] = {
    "T-NLG 17 B, 256 ranks, ZeRO-3": ("TURING_NLG", {"data": 256, "zero": 3}),
    "T-NLG 17 B, 256 ranks, 4 tensor x 2 stages, ZeRO-1": (
        "TURING_NLG",
        {"data": 32, "tensor": 4, "pipeline": 2, "zero": 1, "accumulation": 8},
    ),
    "GPT of 1 T, 1,024 ranks, ZeRO-3": ("TRILLION", {"data": 1024, "zero": 3}),
    "GPT of 1 T, 1,024 ranks, 8 tensor x 8 stages, ZeRO-1": (
        "TRILLION",
        {"data": 16, "tensor": 8, "pipeline": 8, "zero": 1, "accumulation": 16},
    ),
    "Z-code 10 B, 64 ranks, 16 expert ranks, ZeRO-1": ("ZCODE", {"data": 64, "expert": 16, "zero": 1}),
}
SEARCHED: dict[str, tuple[str, str, int, int, int]] = {
    "T-NLG 17 B, 256 x V100-32G": ("TURING_NLG", "v100-32g", 256, 512, 1024),
    "GPT of 1 T, 1,024 x A100-80G": ("TRILLION", "a100-80g", 1024, 3072, 2048),
    "DeBERTa 1.5 B, 64 x V100-32G": ("DEBERTA", "v100-32g", 64, 2048, 512),
    "Z-code 10 B, 64 x V100-32G": ("ZCODE", "v100-32g", 64, 4096, 256),
}
"""Model, device, ranks, rows of the global batch, tokens a row."""


def searched(label: str) -> list[dict[str, Any]]:
    """A row with the plan that a search over the whole space chooses."""
    from mainspring import planner
    from mainspring.planner import presets

    model, name, world, batch, seq_len = SEARCHED[label]
    began = time.perf_counter()
    config = getattr(presets, model)
    shape = planner.inventory_of(config), planner.work_of(config, seq_len)
    found = planner.search(*shape, planner.device(name), world, batch)
    best = found.best()
    return [
        {
            "plan": f"{label}: {best.candidate.overrides()}",
            "search_s": time.perf_counter() - began,
            "predicted_s": best.cost.seconds_per_step,
            "device_gib": best.cost.memory / 2**30,
            "fit": len(found.fits),
            "rejected": len(found.rejected),
        }
    ]


TIE = 1.03
"""Plans whose predictions are nearer than this are a tie: neither order of them is wrong."""


def misorder(rows: list[dict[str, Any]]) -> float:
    """How much slower one of the predicted best three was measured than one ranked behind it."""
    ordered = sorted(rows, key=lambda row: float(row["predicted_s"]))
    pairs = [
        (a["measured_s"] / b["measured_s"])
        for place, a in enumerate(ordered[:3])
        for b in ordered[place + 1 :]
        if b["predicted_s"] > TIE * a["predicted_s"]
    ]
    return max(pairs, default=1.0)


def main() -> int:
    """Exit status 1 when a bar is missed."""
    arguments = harness.options(__doc__ or "", parts=True)
    rows: list[dict[str, Any]] = []
    bars: list[harness.Bar] = []
    native = harness.multiplies_bf16()
    for ranks in (2,) if arguments.quick else (2, 4):
        for precision in ("fp32", "bf16") if native and not arguments.quick else ("fp32",):
            label = f"{ranks} ranks, {precision}"
            part = harness.resume(
                arguments.parts, label, partial(timed, ranks, precision, 3 if arguments.quick else 11)
            )
            rows += part
            worst = max(max(row["ratio"], 1 / row["ratio"]) for row in part)
            bars.append(harness.Bar(f"time, {label}", worst, 1.25, at_most=True))
            bars.append(harness.Bar(f"order of the best three, {label}", misorder(part), 1.03, at_most=True))
    for label in VERIFIED:
        (row,) = harness.resume(arguments.parts, label, partial(counted, label))
        rows.append(row)
        error = max(row["ratio"], 1 / row["ratio"])
        bars.append(harness.Bar(f"bytes of {label}", error, 1.02, at_most=True))
        bars.append(harness.Bar(f"seconds, fake world of {label}", row["seconds"], 30, at_most=True))
        bars.append(harness.Bar(f"GiB, fake world of {label}", row["resident_gib"], 1, at_most=True))
    for label in () if arguments.quick else SEARCHED:
        (row,) = harness.resume(arguments.parts, label, partial(searched, label))
        rows.append(row)
        bars.append(harness.Bar(f"seconds, search for {label}", row["search_s"], 300, at_most=True))
    notes = [
        "A step is forward, backward, clipping and Adam, of a GPT of 256 x 4 layers, 4,096 tokens in all.",
        "Ratios are predicted over measured; the bar is the worst of six plans, either way.",
        "Order: measured seconds of each of the planner's best three over those of any plan ranked behind it "
        f"(predictions nearer than {TIE:g} are a tie).",
        "Predictions are means of two, from calibrations just before and just after; measured seconds are "
        "medians of 11 steps, plans in turn.",
        "4 ranks of one thread share 2 cores; the calibration has as many ranks.",
    ]
    if not native:
        notes.append("bf16 is emulated on this processor and left out.")
    return harness.finish(
        "planner",
        title="The planner: predicted and measured",
        rows=rows,
        bars=bars,
        notes=notes,
        arguments=arguments,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], Path(sys.argv[6]))
    else:
        sys.exit(main())
