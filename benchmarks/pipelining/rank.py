"""What each rank of `benchmarks.pipedream` does: every way of training in turn, on the same data.

Started by the benchmark in a namespace of its own, with one argument: a JSON file that says what to do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring import comm
from mainspring.parallel.pipedream import Layout, Pipeline

ROWS = 32
"""Samples of a minibatch."""
sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
_digits: list[tuple[Tensor, Tensor]] = []


def make_model() -> nn.Sequential:
    """VGG's shape at small scale: convolutions with few weights, then dense layers with nearly all of them
    (4 million, 16 MB)."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Sequential(nn.Linear(1024, 1536), nn.ReLU()),
        nn.Sequential(nn.Linear(1536, 1536), nn.ReLU()),
        nn.Linear(1536, 10),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model


def batch(index: int) -> tuple[Tensor, Tensor]:
    """Handwritten digits (UCI, from scikit-learn) of 16 x 16 pixels."""
    if not _digits:
        from sklearn.datasets import load_digits

        found = load_digits()
        images = torch.from_numpy(found.images).float().div(8).sub(1)[:, None]
        _digits.append((F.interpolate(images, scale_factor=2), torch.from_numpy(found.target).long()))
    images, labels = _digits[0]
    rows = torch.randint(0, len(labels), (ROWS,), generator=torch.Generator().manual_seed(index))
    return images[rows], labels[rows]


def main() -> None:
    """Join the others, train in each way, write what was seen."""
    import warnings

    warnings.simplefilter("ignore")
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rank = int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{told['store']}", rank=rank, world_size=told["world"]
    )
    batch(0)
    found = {way["name"]: _train(way, told["seconds"]) for way in told["ways"]}
    Path(f"{told['store']}.{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _train(way: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Train for about `seconds`, from fresh weights, after a short stretch that says how fast it goes."""
    losses: list[tuple[float, float]] = []
    began = time.perf_counter()

    def loss(out: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(out, target)
        losses.append((time.perf_counter() - began, float(value.detach())))
        return value

    run, close, unit, first = _data_parallel(loss) if way["name"] == "data parallel" else _pipeline(way, loss)
    spent = 0.0
    count = first
    for count in (first, 0):
        if not count:
            count = max(first, round(first * seconds / spent / unit) * unit)
        dist.barrier()
        losses.clear()
        began = time.perf_counter()
        run(count)
        took = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
        dist.all_reduce(took, dist.ReduceOp.MAX)
        spent = float(took)
    close()
    return {"minibatches": count, "seconds": spent, "losses": losses}


Way = tuple[Callable[[int], object], Callable[[], None], int, int]
"""Train so many minibatches; end; minibatches of an update; of the first stretch."""


def _data_parallel(loss: Callable[[Tensor, Tensor], Tensor]) -> Way:
    """torch's DistributedDataParallel: all-reduces overlap with backward."""
    world, rank = dist.get_world_size(), dist.get_rank()
    model = nn.parallel.DistributedDataParallel(make_model())
    optimizer = sgd(model.parameters())
    at = 0

    def run(count: int) -> None:
        nonlocal at
        for _ in range(count // world):
            x, target = batch(at + rank)
            optimizer.zero_grad()
            loss(model(x), target).backward()
            optimizer.step()
            at += world

    return run, lambda: None, world, world


def _pipeline(way: dict[str, Any], loss: Callable[[Tensor, Tensor], Tensor]) -> Way:
    layout = Layout(tuple(part[2] for part in way["parts"]))
    stage = layout.place(dist.get_rank()).stage
    low, high, _ = way["parts"][stage]
    last = stage == layout.stages - 1
    pipe = Pipeline(
        make_model()[low : high + 1],
        layout,
        sgd,
        loss=loss if last else None,
        semantics=way["semantics"],
        accumulate=way["accumulate"],
    )
    if pipe.replicas is not None:
        comm.shared.disable(pipe.replicas)  # between namespaces nothing goes but over the link
    return lambda count: pipe.train(batch, count), pipe.close, way["unit"], way["unit"] * 2


if __name__ == "__main__":
    main()
