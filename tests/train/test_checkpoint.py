"""Checkpoints in one process: exact, readable by others, atomic, and damage never passes."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from mainspring.errors import CheckpointError
from mainspring.train import checkpoint as ck
from mainspring.train.checkpoint import shards


def trained(steps: int = 3, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    for _ in range(steps):
        model(torch.arange(7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: Path, step: int = 3, seed: int = 0, keep: int = 0) -> tuple[Path, dict[str, Tensor]]:
    model, optimizer = trained(seed=seed)
    tensors = ck.model_state(model) | ck.optimizer_state(model, optimizer)
    return ck.save(folder, step, tensors, {"seed": seed}, keep=keep), tensors


def test_model_and_optimizer_come_back_bit_for_bit(tmp_path: Path) -> None:
    path, tensors = save(tmp_path)
    model, optimizer = trained(steps=0, seed=9)
    content = ck.load(path, model, optimizer)
    assert content.step == 3 and content.run == {"seed": 0}
    again = ck.model_state(model) | ck.optimizer_state(model, optimizer)
    assert again.keys() == tensors.keys() and "optimizer.1.weight.exp_avg_sq" in again
    for name, value in tensors.items():
        assert torch.equal(again[name], value) and again[name].dtype == value.dtype, name


def test_training_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    path, _ = save(tmp_path)
    model, optimizer = trained(steps=0, seed=9)
    ck.load(path, model, optimizer)
    through, through_optimizer = trained(steps=3)
    for one, opt in ((model, optimizer), (through, through_optimizer)):
        one(torch.arange(7)).square().sum().backward()
        opt.step()
    for a, b in zip(model.parameters(), through.parameters(), strict=True):
        assert torch.equal(a, b)


def test_model_alone_loads_without_an_optimizer(tmp_path: Path) -> None:
    path, tensors = save(tmp_path)
    model, _ = trained(steps=0, seed=9)
    ck.load(path, model)
    state = ck.load_model_state(path)
    assert {f"model.{n}" for n in state} == {n for n in tensors if n.startswith("model.")}
    for name, value in model.state_dict().items():
        assert torch.equal(value, tensors[f"model.{name}"]) and torch.equal(state[name], value)


def test_files_open_with_the_safetensors_library(tmp_path: Path) -> None:
    path, tensors = save(tmp_path)
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "rank-00000.safetensors"]
    with safe_open(path / "rank-00000.safetensors", "pt") as file:
        assert set(file.keys()) == set(tensors)
        for name, value in tensors.items():
            assert torch.equal(file.get_tensor(name), value)


@given(st.sampled_from(list(ck.manifest.SPELLINGS)), st.lists(st.integers(0, 4), max_size=3))
def test_every_type_and_shape_round_trips(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, shape: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    value = (torch.rand(shape) * 8).to(dtype)
    path = ck.save(folder, 1, {"model.x": value}, {})
    assert torch.equal(ck.load_model_state(path)["x"], value)


def test_a_shared_tensor_is_saved_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert list(ck.model_state(model)) == ["model.0.weight"]
    path = ck.save(tmp_path, 1, ck.model_state(model), {})
    before = model[0].weight.detach().clone()
    nn.init.zeros_(model[0].weight)
    ck.load(path, model)
    assert torch.equal(model[1].weight, before)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit_manifest(path: Path) -> None:
    values = json.loads(path.read_text())
    values["step"] += 1
    path.write_text(json.dumps(values))


def first_data_byte(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


FILE, MANIFEST = "rank-00000.safetensors", "manifest.json"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped data": (lambda p: flip(p / FILE, first_data_byte(p / FILE)), r"rank-00000.*damaged in bytes"),
    "flipped length": (lambda p: flip(p / FILE, 0), r"damaged in its header: expected sha256 .*, found"),
    "flipped header": (lambda p: flip(p / FILE, 30), r"damaged in its header: expected sha256 .*, found"),
    "truncated": (lambda p: os.truncate(p / FILE, 900), r"truncated: expected \d+ bytes, found 900"),
    "emptied": (lambda p: os.truncate(p / FILE, 0), r"truncated: expected \d+ bytes, found 0"),
    "longer": (lambda p: os.truncate(p / FILE, 9000), r"too long: expected \d+ bytes, found 9000"),
    "missing file": (lambda p: (p / FILE).unlink(), r"missing; the manifest expects a file of \d+"),
    "missing manifest": (lambda p: (p / MANIFEST).unlink(), r"manifest\.json is missing"),
    "changed manifest": (lambda p: edit_manifest(p / MANIFEST), r"manifest\.json: damaged: expected sha256"),
    "broken manifest": (lambda p: os.truncate(p / MANIFEST, 99), r"manifest\.json: cannot be read as JSON"),
    "other format": (lambda p: (p / MANIFEST).write_text("{}"), r"expected format 'mainspring-checkpoint/1'"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    save(tmp_path, step=10)
    path, _ = save(tmp_path, step=20)
    harm, message = DAMAGE[kind]
    harm(path)
    model, optimizer = trained(steps=0)
    with pytest.raises(CheckpointError, match=message):
        ck.verify(path)
    with pytest.raises(CheckpointError, match=message):
        ck.load_model_state(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        ck.load(path, model, optimizer)
    assert f"the newest older intact one is {tmp_path / 'step-00000010'}" in str(caught.value)
    ck.verify(tmp_path / "step-00000010")


@pytest.mark.parametrize("file", [FILE, MANIFEST])
def test_every_byte_is_guarded(tmp_path: Path, file: str) -> None:
    path, _ = save(tmp_path)
    size = (path / file).stat().st_size
    for position in range(0, size, max(1, size // 60)):
        flip(path / file, position)
        with pytest.raises(CheckpointError):
            ck.verify(path)
        flip(path / file, position)
    ck.verify(path)


def test_without_an_older_one_the_advice_is_to_begin_again(tmp_path: Path) -> None:
    path, _ = save(tmp_path)
    flip(path / FILE, -1)
    with pytest.raises(CheckpointError, match="no older checkpoint is intact"):
        ck.load(path, *trained())


def test_another_model_is_refused_with_names(tmp_path: Path) -> None:
    path, _ = save(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.0\.weight: checkpoint \[7, 5\], model \[8, 5\]"):
        ck.load(path, nn.Sequential(nn.Embedding(8, 5), nn.Linear(5, 3), nn.BatchNorm1d(3)))
    with pytest.raises(CheckpointError, match=r"only in the checkpoint: model\.1\.bias"):
        ck.load(path, nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 3, bias=False), nn.BatchNorm1d(3)))
    with pytest.raises(CheckpointError, match=r"not in the checkpoint: model\.3\.bias"):
        ck.load(path, nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)))


def test_latest_passes_over_what_is_incomplete(tmp_path: Path) -> None:
    assert ck.latest(tmp_path / "nowhere") is None
    first, _ = save(tmp_path, step=9)
    (tmp_path / "step-00000012").mkdir()
    (tmp_path / "step-00000011.tmp").mkdir()
    (tmp_path / "notes").mkdir()
    assert ck.latest(tmp_path) == first
    ck.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "step-00000009", "step-00000012"]


def test_old_ones_go_after_a_good_save(tmp_path: Path) -> None:
    for step in (100_000_000, 5, 7):
        save(tmp_path, step=step, keep=2)
    assert [p.name for p in ck.complete(tmp_path)] == ["step-00000007", "step-100000000"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, step=4)
    path, tensors = save(tmp_path, step=4, seed=5)
    assert torch.equal(ck.load_model_state(path)["0.weight"], tensors["model.0.weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000004"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    previous, _ = save(tmp_path, step=1, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"rank-00000.*cannot be written: File too large"):
            save(tmp_path, step=2, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == [previous.name]
    ck.verify(previous)


def test_bytes_that_the_disk_changed_are_found_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous, _ = save(tmp_path, step=1)

    def lying_disk(descriptor: int) -> None:
        os.lseek(descriptor, -2, os.SEEK_END)
        os.write(descriptor, b"\x55")

    monkeypatch.setattr(shards.os, "fsync", lying_disk)
    with pytest.raises(CheckpointError, match="damaged in bytes"):
        save(tmp_path, step=2)
    assert [p.name for p in tmp_path.iterdir()] == [previous.name]


def test_what_is_no_tensor_belongs_in_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="only tensors"):
        ck.save(tmp_path, 1, {"model.x": 3}, {})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_saver_copies_at_once_and_writes_behind(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(*args: object, **options: object) -> Path:
        assert go.wait(10)
        return ck.save(*args, **options)  # type: ignore[arg-type]

    saver = ck.Saver(tmp_path, keep=2, save=slow)
    value = torch.arange(4.0)
    assert saver.start(1, {"model.x": value}, {}) is None
    value.zero_()  # training goes on
    assert ck.latest(tmp_path) is None
    go.set()
    first = saver.start(2, {"model.x": value}, {})
    assert first == ck.Outcome(1, tmp_path / "step-00000001", None)
    last = saver.wait()
    assert last == ck.Outcome(2, tmp_path / "step-00000002", None)
    assert ck.load_model_state(tmp_path / "step-00000001")["x"].tolist() == [0, 1, 2, 3]
    assert ck.load_model_state(tmp_path / "step-00000002")["x"].tolist() == [0, 0, 0, 0]
    assert saver.wait() is None


def test_saver_tells_of_failure_and_carries_on(tmp_path: Path) -> None:
    attempts = []

    def sometimes(*args: object, **options: object) -> Path:
        attempts.append(args[1])
        if len(attempts) == 1:
            raise CheckpointError("disk full")
        return ck.save(*args, **options)  # type: ignore[arg-type]

    saver = ck.Saver(tmp_path, keep=0, save=sometimes)
    saver.start(1, {"model.x": torch.ones(1)}, {})
    outcome = saver.start(2, {"model.x": torch.ones(1)}, {})
    assert outcome is not None and outcome.path is None and str(outcome.error) == "disk full"
    assert saver.wait() == ck.Outcome(2, tmp_path / "step-00000002", None)


def test_saver_sweeps_what_a_killed_save_left(tmp_path: Path) -> None:
    (tmp_path / "step-00000003.tmp").mkdir()
    ck.Saver(tmp_path, keep=0)
    assert list(tmp_path.iterdir()) == []
