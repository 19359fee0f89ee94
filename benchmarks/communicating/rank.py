"""What each rank of `benchmarks.communication` does: every way of training, over the link that it finds.

Started by the benchmark, in a namespace of its own or not, with a JSON file that says what to do and its
number.
"""

from __future__ import annotations

import gzip
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.communicating.ways import CHANGING, JOINED, SEQ, WAYS, Size
from mainspring import comm


def text(path: str) -> Tensor:
    """Bytes of a text; made-up words where there is none."""
    if path:
        return torch.frombuffer(bytearray(gzip.decompress(Path(path).read_bytes())), dtype=torch.uint8)
    words = torch.randint(97, 123, (200, 4), generator=torch.Generator().manual_seed(0))
    order = torch.randint(0, 200, (20_000,), generator=torch.Generator().manual_seed(1))
    spaced = torch.cat([words, torch.full((200, 1), 32)], 1)
    return spaced[order].flatten().to(torch.uint8)


def rows_of(corpus: Tensor, step: int, rank: int, seed: int, rows: int) -> Tensor:
    """A rank's rows of a step, of SEQ + 1 bytes."""
    generator = torch.Generator().manual_seed((seed * 100_003 + step) * 64 + rank)
    starts = torch.randint(0, len(corpus) - SEQ - 1, (rows,), generator=generator)
    return corpus[starts[:, None] + torch.arange(SEQ + 1)].long()


def main() -> None:
    """Join the others, do what is told, write what was seen."""
    import warnings

    warnings.simplefilter("ignore")
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rank = int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{told['store']}", rank=rank, world_size=told["world"]
    )
    comm.shared.disable()  # between hosts nothing goes but over the link
    size, corpus = Size(**told["size"]), text(told["text"])
    find = _curves if told["follow"] else _times
    found = {way: find(way, size, corpus, rank, told["seed"]) for way in told["ways"]}
    Path(f"{told['store']}.{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _times(way: str, size: Size, corpus: Tensor, rank: int, seed: int) -> dict[str, Any]:
    """Median seconds and bytes of a step, in the warm-up and after it."""
    # What a step costs does not depend on when the variance freezes.
    run = WAYS[way](replace(size, freeze=size.timed + 1), seed)
    spent: list[float] = []
    sent: list[float] = []
    phases = 2 if way in CHANGING else 1
    for step in range(phases * (size.timed + 1)):  # of each phase the first is not counted
        before = run.sent()
        dist.barrier()
        began = time.perf_counter()
        run.step(rows_of(corpus, step, rank, seed, size.rows))
        spent.append(time.perf_counter() - began)
        after = run.sent()
        sent.append(0.0 if after is None or before is None else after - before)
    warm, later = slice(1, size.timed + 1), slice(-size.timed, None)
    return {
        "warm-up seconds": statistics.median(spent[warm]),
        "seconds": statistics.median(spent[later]),
        "warm-up bytes": statistics.median(sent[warm]),
        "bytes": statistics.median(sent[later]),
    }


def _curves(way: str, size: Size, corpus: Tensor, rank: int, seed: int) -> dict[str, Any]:
    """The mean loss of all ranks, step by step, of a whole run; its bytes."""
    run = {**WAYS, **JOINED}[way](size, seed)
    before = run.sent()
    losses = torch.tensor(
        [run.step(rows_of(corpus, step, rank, seed, size.rows)) for step in range(size.steps)]
    )
    after = run.sent()
    dist.all_reduce(losses)
    return {
        "losses": (losses / dist.get_world_size()).tolist(),
        "bytes": 0.0 if after is None or before is None else after - before,
    }


if __name__ == "__main__":
    main()
