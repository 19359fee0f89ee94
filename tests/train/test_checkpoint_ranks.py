"""Checkpoints over ranks: any sharding loads any other, and one rank's fault is every rank's error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mainspring.errors import CheckpointError
from mainspring.train import checkpoint as ck
from support.spawn import run_ranks

Arrays = dict[str, np.ndarray]
pytestmark = pytest.mark.distributed


def trained(sharded: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with dims that do not divide by the ranks, one of fewer rows than ranks, after two steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 1), nn.Linear(1, 3))
    if sharded:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for part in model:
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    for _ in range(2):
        model(torch.arange(7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole(model: nn.Module, optimizer: torch.optim.Optimizer) -> Arrays:
    named = ck.model_state(model) | ck.optimizer_state(model, optimizer)
    return {n: (t.full_tensor() if isinstance(t, DTensor) else t).numpy().copy() for n, t in named.items()}


def save(rank: int, world: int, folder: str, sharded: bool) -> Arrays:
    model, optimizer = trained(sharded)
    saver = ck.Saver(Path(folder), keep=0)
    saver.start(2, ck.model_state(model) | ck.optimizer_state(model, optimizer), {"world": world})
    result = whole(model, optimizer)
    outcome = saver.wait()
    assert outcome is not None and outcome.error is None, outcome
    return result


def load(rank: int, world: int, path: str, sharded: bool) -> Arrays:
    model, optimizer = trained(sharded)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    ck.load(path, model, optimizer, group=dist.group.WORLD)
    return whole(model, optimizer)


def same(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert np.array_equal(value, b[name]), name


@pytest.mark.parametrize(("writers", "readers"), [((2, True), (4, True)), ((2, False), (2, True))])
def test_any_sharding_loads_any_other(
    tmp_path: Path, writers: tuple[int, bool], readers: tuple[int, bool]
) -> None:
    saved = run_ranks(save, writers[0], str(tmp_path), writers[1])[0]
    path = ck.latest(tmp_path)
    assert path is not None and len(list(path.glob("rank-*"))) == 2
    content = ck.verify(path)
    total = sum(s.length for entry in content.tensors.values() for s in entry.slices)
    assert total == sum(t.nbytes for t in saved.values()), "each element is stored once"
    for loaded in run_ranks(load, readers[0], str(path), readers[1]):
        same(loaded, saved)
    # One process, without any group.
    alone, optimizer = trained(sharded=False)
    ck.load(path, alone, optimizer)
    same(whole(alone, optimizer), saved)
    same(
        {f"model.{n}": t.numpy() for n, t in ck.load_model_state(path).items()},
        {n: t for n, t in saved.items() if n.startswith("model.")},
    )


def faulty(rank: int, world: int, folder: str) -> list[str]:
    """Rank 1 cannot write; then the checkpoint that there is gets damaged."""
    said = []
    model, optimizer = trained(sharded=True)
    tensors = ck.model_state(model) | ck.optimizer_state(model, optimizer)
    good = ck.save(folder, 1, tensors, {}, group=dist.group.WORLD)
    if rank == 1:
        from mainspring.train.checkpoint import shards

        def broken(*_: object) -> None:
            raise CheckpointError("no space on rank 1")

        shards._write_data = broken
    try:
        ck.save(folder, 2, tensors, {}, group=dist.group.WORLD)
    except CheckpointError as error:
        said.append(str(error))
    dist.barrier()
    said.append(str(sorted(p.name for p in Path(folder).iterdir())))
    if rank == 0:
        file = good / "rank-00001.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    dist.barrier()
    try:
        ck.load(good, model, optimizer, group=dist.group.WORLD)
    except CheckpointError as error:
        said.append(str(error))
    return said


def test_one_ranks_fault_is_every_ranks_error(tmp_path: Path) -> None:
    for failed, left, damaged in run_ranks(faulty, 2, str(tmp_path)):
        assert failed == "rank 1: no space on rank 1"
        assert left == "['step-00000001']"
        assert "rank-00001.safetensors: damaged in bytes" in damaged
