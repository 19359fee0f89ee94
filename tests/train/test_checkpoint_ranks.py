"""Checkpoints over ranks: any sharding loads any other, and one rank's fault is every rank's error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mainspring.errors import CheckpointError
from mainspring.nn.span import logical_shape, span_of
from mainspring.train import checkpoint as ck
from support.spawn import run_ranks
from train.pieces import cut

Arrays = dict[str, np.ndarray]
pytestmark = pytest.mark.distributed

WAYS = [("whole", 1), ("whole", 3), ("fsdp2", 2), ("flat", 1), ("flat", 2), ("flat", 3), ("flat", 4)]
"""How the state is held, and by how many ranks."""


class Odd(nn.Module):
    """Dims that do not divide by the ranks, one of fewer rows than ranks, three dims, a number, none, a tie,
    what is not trained, and a buffer."""

    def __init__(self, numbers: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.one = nn.Linear(5, 1)
        self.wide = nn.Linear(1, 3)
        self.box = nn.Parameter(torch.randn(3, 2, 4))
        self.frozen = nn.Parameter(torch.randn(2, 3), requires_grad=False)
        self.tied = nn.Embedding(7, 5, _weight=self.table.weight)
        if numbers:  # which FSDP2 cannot shard
            self.number = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mean", torch.arange(6.0).view(3, 2))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def made(seed: int, numbers: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer after two steps with made-up gradients."""
    torch.manual_seed(seed)
    model = Odd(numbers)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole(model: nn.Module, optimizer: torch.optim.Optimizer, empty: bool = False) -> dict[str, Tensor]:
    return ck.model_state(model) | ck.optimizer_state(model, optimizer, empty=empty)


def held_as(
    way: tuple[str, int], rank: int, seed: int, numbers: bool
) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Tensor]]:
    """The state of `made(seed)`, as this rank holds it, and as it is whole."""
    model, optimizer = made(seed, numbers)
    full = {name: value.clone() for name, value in whole(model, optimizer).items()}
    kind, world = way
    if kind == "flat":
        cut(model, rank, world)
    elif kind == "fsdp2":
        fully_shard(model, mesh=DeviceMesh("cpu", list(range(world))))
    sharded = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state = sharded.state[parameter]
        old = kind == "flat" and not parameter.numel()  # never stepped: what it counts is not the truth
        state["step"] = torch.tensor(77.0) if old else full[f"optimizer.{name}.step"]
        for key in ("exp_avg", "exp_avg_sq"):
            value = full[f"optimizer.{name}.{key}"]
            span = span_of(parameter)
            if span is not None:
                value = value.reshape(-1)[span.start : span.stop].clone()
            elif isinstance(parameter, DTensor):
                from torch.distributed.tensor import distribute_tensor

                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            state[key] = value
    return model, sharded, full


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """What a rank that holds `like` should hold of a tensor."""
    span = span_of(like)
    return full if span is None else full.reshape(-1)[span.start : span.stop]


def every_way(rank: int, world: int, folder: str) -> list[str]:
    """Save in every way and load in every way; returns what does not fit."""
    groups = {n: dist.new_group(list(range(n))) for n in {n for _, n in WAYS}}
    wrong = []
    for index, saving in enumerate(WAYS):
        place = Path(folder) / f"{saving[0]}-{saving[1]}"
        numbers = saving[0] != "fsdp2"
        if rank < saving[1]:
            model, optimizer, _ = held_as(saving, rank, index, numbers)
            tensors = whole(model, optimizer)
            assert all(t.shape == (s.numel,) for t in tensors.values() if (s := span_of(t)) is not None)
            ck.save(place, 2, tensors, {}, group=groups[saving[1]])
        dist.barrier()
        for loading in WAYS:
            if rank >= loading[1] or (loading[0] == "fsdp2" and numbers):
                continue
            model, optimizer, _ = held_as(loading, rank, 99, numbers)
            optimizer.state.clear()
            ck.load(place / "step-00000002", model, optimizer, group=groups[loading[1]])
            expected = held_as(("whole", 1), 0, index, numbers)[2]
            got = whole(model, optimizer, empty=True)
            if got.keys() != expected.keys():
                wrong.append(f"{saving} -> {loading}: {sorted(got.keys() ^ expected.keys())}")
            for name, value in got.items():
                fit = logical_shape(value) == expected[name].shape
                here = value.full_tensor() if isinstance(value, DTensor) else value
                if not fit or not torch.equal(here, part_of(expected[name], value)):
                    wrong.append(f"{saving} -> {loading}: {name}")
        dist.barrier()
    return wrong


def test_any_sharding_loads_any_other(tmp_path: Path) -> None:
    assert run_ranks(every_way, 4, str(tmp_path)) == [[]] * 4
    for index, (kind, world) in enumerate(WAYS):
        path = tmp_path / f"{kind}-{world}" / "step-00000002"
        content = ck.verify(path)
        state = made(index, kind != "fsdp2")
        expected = whole(*state)
        stored = sum(s.length for entry in content.tensors.values() for s in entry.slices)
        assert stored == sum(t.nbytes for t in expected.values()), "each element is stored once"
        assert len(content.files) == world
        alone = ck.load_model_state(path)
        assert {f"model.{n}" for n in alone} == {n for n in expected if n.startswith("model.")}
        for name, value in alone.items():
            assert torch.equal(value, expected[f"model.{name}"]), name


def staging(rank: int, world: int, folder: str) -> list[int]:
    """Bytes that the saver copies and this rank's file holds, of a state that every rank has whole."""
    model, optimizer = made(0, True)
    copied = []

    def save(place: Path, step: int, tensors: dict[str, ck.Held], *rest: object, **options: object) -> Path:
        copied.append(sum(box.data.nbytes for one in tensors.values() for box in one.boxes))
        return ck.save(place, step, tensors, *rest, **options)  # type: ignore[arg-type]

    saver = ck.Saver(Path(folder), keep=0, save=save)
    saver.start(1, whole(model, optimizer), {})
    outcome = saver.wait()
    assert outcome is not None and outcome.path is not None, outcome
    file = ck.Manifest.read(outcome.path).files[f"rank-{rank:05}.safetensors"]
    return [copied[0], file.size - file.header]


def test_ranks_share_the_work_of_a_replicated_state(tmp_path: Path) -> None:
    numbers = 4 * (7 + 3)  # step counts, and what has no dims, are with every rank
    total = sum(t.nbytes for t in whole(*made(0, True)).values())
    for copied, written in run_ranks(staging, 3, str(tmp_path)):
        assert copied <= total / 3 + numbers and written <= total / 3 + numbers
    state = ck.load_model_state(tmp_path / "step-00000001")
    assert torch.equal(state["box"], made(0, True)[0].box)


def faulty(rank: int, world: int, folder: str) -> list[str]:
    """Rank 1 cannot write; ranks hold what does not fit; then the checkpoint that there is gets damaged."""
    said = []
    model, optimizer, _ = held_as(("flat", 2), rank, 0, True)
    tensors = whole(model, optimizer)
    good = ck.save(folder, 1, tensors, {}, group=dist.group.WORLD)

    def attempt(tensors: dict[str, Tensor]) -> None:
        try:
            ck.save(folder, 2, tensors, {}, group=dist.group.WORLD)
        except CheckpointError as error:
            said.append(str(error))
        dist.barrier()

    # A rank that does not have its part; parts that nobody marked as such; and one that was freed.
    attempt({n: t for n, t in tensors.items() if rank == 0 or n != "model.table.weight"})
    attempt({n: t.clone() for n, t in tensors.items()})
    freed = torch.ones(3)
    if rank == 1:
        freed.untyped_storage().resize_(0)
    attempt({"model.freed": freed})
    if rank == 1:
        from mainspring.train.checkpoint import shards

        def broken(*_: object) -> None:
            raise CheckpointError("no space on rank 1")

        shards._write_data = broken
    attempt(tensors)
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


def test_one_ranks_fault_is_every_ranks_error_and_no_weight_is_partial(tmp_path: Path) -> None:
    for partial, unmarked, freed, failed, left, damaged in run_ranks(faulty, 2, str(tmp_path)):
        assert "model.table.weight: " in partial and "elements are in no slice" in partial
        assert "not saved, for weights would be partial: model." in unmarked and "rank 1" in unmarked
        assert "rank 1: model.freed: has a shape but no values: its storage was freed" in freed
        assert failed == "rank 1: no space on rank 1"
        assert left == "['step-00000001']"
        assert "rank-00001.safetensors: damaged in bytes" in damaged
