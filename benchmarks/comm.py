"""Collectives between processes of one host: through shared memory, beside gloo's own.

Two ranks of one thread; the same tensors, in turn. First all results are compared, then each candidate is
timed from a barrier to the end on the slower rank.

- `gloo`: torch's collective on its gloo group.
- `exchange`: ours over gloo, for ranks that share no memory.
- `mainspring`: ours, started and waited for at once.
- `window`: ours where the data lives in shared memory already (`comm.Window`): one-sided reads.

The bound is the memory traffic that any of them must cause, at the rate at which both ranks copy a large
tensor at the same time: a reduce-scatter of W bytes reads W and writes W/2 on each rank, an all-gather reads
and writes W, an all-reduce reads 3/2 W and writes W.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Bar, finish, median, options

RANKS = 2
MIB = 2**20
# (payload in MiB, dtype): engine.md's sizes, then the gradients of a model of 31 M parameters.
SIZES = [(16, "float32"), (64, "float32"), (118, "float32"), (59, "bfloat16")]
TRAFFIC = {"reduce_scatter": 0.75, "all_gather": 1.0, "all_reduce": 1.25}
"""Memory traffic of the bound, in copies of the payload."""


def rank_main(rank: int, store: str, quick: bool, answers: Any) -> None:
    """One rank: compare, then measure, every size."""
    import warnings

    import torch
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    rows = []
    for mib, dtype in SIZES[:1] if quick else SIZES:
        rows += measure(rank, mib * MIB, getattr(torch, dtype), 5 if quick else 9)
    rows += latency(5 if quick else 9)
    answers.put((rank, rows))
    dist.destroy_process_group()


def measure(rank: int, nbytes: int, dtype: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows of one size."""
    import torch
    import torch.distributed as dist

    from mainspring import comm

    plain = dist.new_group([0, 1])
    comm.shared.disable(plain)
    n = nbytes // dtype.itemsize
    half = n // RANKS
    mine = slice(rank * half, (rank + 1) * half)
    whole = torch.randn(n, generator=torch.Generator().manual_seed(rank)).to(dtype)
    out, gathered, total = torch.empty(half, dtype=dtype), torch.empty(n, dtype=dtype), whole.clone()
    shard = whole[mine].clone()
    gradients = comm.shared.window(n, dtype, name="gradients")
    assert gradients is not None, comm.shared.why_not()
    gradients.local.copy_(whole)

    def one_sided(body: Callable[[], None]) -> None:
        gradients.publish()
        body()
        gradients.release()
        gradients.acquire()

    def read_all() -> None:
        for source in range(RANKS):
            part = slice(source * half, (source + 1) * half)
            gradients.read(source, part.start, part.stop, gathered[part])

    candidates: dict[str, dict[str, Callable[[], object]]] = {
        "reduce_scatter": {
            "gloo": lambda: dist.reduce_scatter_tensor(out, whole),
            "exchange": lambda: comm.reduce_scatter(out, whole, name="x", group=plain).wait(),
            "mainspring": lambda: comm.reduce_scatter(out, whole, name="x").wait(),
            "window": lambda: one_sided(lambda: gradients.reduce(mine.start, mine.stop, out)),
        },
        "all_gather": {
            "gloo": lambda: dist.all_gather_into_tensor(gathered, shard),
            "exchange": lambda: [w.wait() for w in comm.all_gather(gathered, shard, name="x", group=plain)],
            "mainspring": lambda: [w.wait() for w in comm.all_gather(gathered, shard, name="x")],
            "window": lambda: one_sided(read_all),
        },
        # max: the numbers stay as they are from round to round.
        "all_reduce": {
            "gloo": lambda: dist.all_reduce(total, dist.ReduceOp.MAX),
            "mainspring": lambda: comm.all_reduce(total, name="x", op="max"),
        },
    }
    compare(candidates, {"reduce_scatter": out, "all_gather": gathered, "all_reduce": total}, whole)
    times: dict[tuple[str, str], list[float]] = {}
    copies = []
    for turn in range(rounds):
        copies.append(timed(lambda: gathered.copy_(whole)))
        for kind, ways in candidates.items():
            names = list(ways)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times.setdefault((kind, name), []).append(timed(ways[name]))
    copy = median(copies)
    return [
        {
            "collective": kind,
            "payload": f"{nbytes // MIB} MiB {str(dtype)[6:]}",
            "way": name,
            "ms": 1e3 * median(values),
            "beside gloo": median(times[kind, "gloo"]) / median(values),
            "of the bound": TRAFFIC[kind] * copy / median(values),
            "copy_gb_per_second": 2 * nbytes / copy / 1e9,
        }
        for (kind, name), values in times.items()
    ]


def latency(rounds: int) -> list[dict[str, Any]]:
    """Rows of an all-reduce of one number."""
    import torch
    import torch.distributed as dist

    from mainspring import comm

    x = torch.ones(1)
    ways: dict[str, Callable[[], object]] = {
        "gloo": lambda: dist.all_reduce(x, dist.ReduceOp.MAX),
        "mainspring": lambda: comm.all_reduce(x, name="x", op="max"),
    }
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            times.setdefault(name, []).append(timed(lambda way=way: [way() for _ in range(100)]) / 100)
    return [
        {
            "collective": "all_reduce",
            "payload": "one float32",
            "way": name,
            "ms": 1e3 * median(values),
            "beside gloo": median(times["gloo"]) / median(values),
        }
        for name, values in times.items()
    ]


def timed(run: Callable[[], object]) -> float:
    """Seconds of the slower rank."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    began = time.perf_counter()
    run()
    seconds = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return float(seconds)


def compare(candidates: Any, results: Any, whole: Any) -> None:
    """Every candidate gives what gloo gives (two addends: to the bit), before anything is timed."""
    import torch

    for kind, ways in candidates.items():
        ways["gloo"]()
        want = results[kind].clone()
        for name, way in ways.items():
            results[kind].copy_(whole[: want.numel()])
            way()
            assert torch.equal(results[kind], want), (kind, name)


def main() -> int:
    """Exit status 1 when a bar is missed."""
    arguments = options(__doc__ or "")
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=rank_main, args=(rank, f"{folder}/store", arguments.quick, answers))
            for rank in range(RANKS)
        ]
        for process in ranks:
            process.start()
        rows = dict(answers.get(timeout=600) for _ in ranks)[0]
        for process in ranks:
            process.join()
    bars = []
    for kind, least in (("reduce_scatter", 5.0), ("all_gather", 3.0)):
        ratios = [
            row["beside gloo"]
            for row in rows
            if row["collective"] == kind and row["way"] == "mainspring" and "float32" in row["payload"]
        ]
        bars.append(Bar(f"{kind} beside gloo, least of the fp32 sizes (ratio)", min(ratios), least))
    return finish(
        "comm",
        title="Collectives between processes of one host",
        rows=rows,
        bars=bars,
        notes=[
            "Two processes of one thread. Times are medians of interleaved rounds, of the slower rank.",
            "The bound is the memory traffic that the collective must cause, at the rate at which both ranks "
            "copy a tensor of the payload's size at the same time (`copy_gb_per_second`, read and written).",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
