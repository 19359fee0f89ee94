"""Whole weights out of sharded checkpoints: equal, readable by others, whole or absent."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mainspring.errors import CheckpointError, UsageError
from mainspring.nn.span import Span, mark
from mainspring.train import checkpoint as ck
from mainspring.train.checkpoint.consolidate import consolidate

STATE = {
    "model.layers.0.weight": torch.arange(35.0).view(7, 5),
    "model.layers.0.bias": torch.arange(7.0).bfloat16(),
    "model.count": torch.tensor([3]),
    "optimizer.layers.0.weight.exp_avg": torch.arange(35.0).view(7, 5) / 7,
    "optimizer.layers.0.weight.step": torch.tensor(4.0),
}


def sharded(folder: Path) -> Path:
    """A checkpoint in odd slices, made by two writers."""
    held: dict[str, ck.Held] = {}
    for name, value in STATE.items():
        boxes = []
        for start, stop in ((0, value.numel() // 3), (value.numel() // 3, value.numel())):
            piece = value.reshape(-1)[start:stop]
            mark(piece, Span(value.shape, start, stop))
            boxes += ck.boxes.held(name, piece).boxes
        held[name] = ck.Held(value.shape, value.dtype, tuple(boxes))
    return ck.save(folder, 4, held, {"seed": 1})


def test_whole_tensors_by_their_own_names(tmp_path: Path) -> None:
    path, out = sharded(tmp_path), tmp_path / "deep" / "out"
    assert max(len(e.slices) for e in ck.Manifest.read(path).tensors.values()) > 2
    content = consolidate(path, out)
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "model.safetensors"]
    assert content.step == 4 and content.run["seed"] == 1
    loaded = load_file(out / "model.safetensors")
    expected = {n.removeprefix("model."): t for n, t in STATE.items() if n.startswith("model.")}
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype
    ck.verify(out)
    again = ck.load_model_state(out)
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_large_models_and_states_are_spread_over_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    consolidate(sharded(tmp_path), out, optimizer=True, file_bytes=100)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 35 * 4 + 7 * 2 + 8
    files = set(index["weight_map"].values())
    assert files == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(out / file)[name], STATE[f"model.{name}"])
    states = {
        k: v for n in (1, 2) for k, v in load_file(out / f"optimizer-0000{n}-of-00002.safetensors").items()
    }
    assert torch.equal(states["layers.0.weight.exp_avg"], STATE["optimizer.layers.0.weight.exp_avg"])
    assert states["layers.0.weight.step"].item() == 4
    ck.verify(out)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"layers.0.weight": (7, 6)}, r"layers\.0\.weight: checkpoint \[7, 5\], model \[7, 6\]"),
        ({"layers.0.bias": None}, r"layers\.0\.bias: only in the checkpoint"),
        ({"head.weight": (3, 5)}, r"head\.weight: not in the checkpoint"),
    ],
)
def test_what_is_not_the_whole_model_is_refused_by_name(
    tmp_path: Path, expected: dict[str, tuple[int, ...] | None], said: str
) -> None:
    shapes = {n.removeprefix("model."): tuple(t.shape) for n, t in STATE.items() if n.startswith("model.")}
    wanted = {n: s for n, s in (shapes | expected).items() if s is not None}
    path = sharded(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        consolidate(path, tmp_path / "out", expected=wanted)
    consolidate(path, tmp_path / "good", expected=shapes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good", path.name]


def test_empty_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = ck.save(tmp_path, 1, {"model.hollow": torch.zeros(0, 5), "model.x": torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="hollow: has no elements"):
        consolidate(path, tmp_path / "out")
    path = ck.save(tmp_path, 2, {"optimizer.x.step": torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="holds no tensors of the model"):
        consolidate(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_partial_weights_are_refused_by_name(tmp_path: Path) -> None:
    """A manifest that lost a slice, with a good checksum."""
    path = sharded(tmp_path)
    content = ck.Manifest.read(path)
    entry = content.tensors["model.layers.0.weight"]
    content.tensors["model.layers.0.weight"] = ck.Entry(entry.dtype, entry.shape, entry.slices[1:])
    (path / "manifest.json").write_bytes(content.to_bytes())
    for read in (lambda: consolidate(path, tmp_path / "out"), lambda: ck.load_model_state(path)):
        with pytest.raises(CheckpointError, match=r"model\.layers\.0\.weight is not whole: .* in no slice"):
            read()
    assert not (tmp_path / "out").exists()


def test_damage_and_a_full_disk_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = sharded(tmp_path), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"model\.safetensors.*File too large"):
            consolidate(path, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    usage = ck.consolidate.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(ck.consolidate.shutil, "disk_usage", lambda _: usage._replace(free=17))
        with pytest.raises(CheckpointError, match="needs 162 bytes, and .* has 17 free"):
            consolidate(path, out)
    file = path / "rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[8 + int.from_bytes(content[:8], "little")] ^= 1  # of the first tensor, which is the model's
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank-00000.*damaged in bytes"):
        consolidate(path, out)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists"):
        consolidate(sharded(tmp_path), tmp_path / "out")
