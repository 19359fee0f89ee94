"""Packed weights: the same answers, mapped, and never out of date."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mainspring.errors import UsageError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.native import export_native_task
from mainspring.infer import Engine, GenerateOptions
from mainspring.infer.load import find
from mainspring.infer.opening import pack_model
from mainspring.infer.pack import find_pack, path_of
from mainspring.models import ModelConfig, resolve
from mainspring.models.hub import export_hf
from mainspring.models.native import export_native
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.text import Tokenizer

MODEL = ModelConfig(family="gpt2", preset="tiny", config={"d_model": 32, "n_layers": 2, "max_positions": 64})
OPTIONS = GenerateOptions(max_tokens=8)


def exported(folder: Path, tokenizer: Tokenizer, seed: int) -> Path:
    model = initialize(Transformer(resolve(MODEL, tokenizer.vocab_size)), seed=seed)
    tokenizer.save(folder / "tokenizer.json")
    return export_hf(MODEL, model.config, model.state_dict(), folder / "tokenizer.json", folder)


def text(engine: Engine) -> str:
    return engine.generate(["the cat"], OPTIONS)[0].text


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_a_packed_model_says_the_same(tokenizer: Tokenizer, tmp_path: Path, precision: str) -> None:
    folder = exported(tmp_path / "model", tokenizer, 1)
    expected = Engine.load(folder, precision=precision)
    written, new = pack_model(folder, precision)
    assert new and written == folder / "packed" / f"{precision}.safetensors"
    assert pack_model(folder, precision) == (written, False)
    loaded = Engine.load(folder, precision=precision)
    assert text(loaded) == text(expected) and loaded.layout == expected.layout
    for (name, ours), theirs in zip(
        loaded.model.state_dict().items(), expected.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype, name


def test_the_pack_is_used_and_not_the_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", tokenizer, 1)
    expected = text(Engine.load(folder, pack=True))
    weights = folder / "model.safetensors"
    before, status = weights.read_bytes(), weights.stat()
    weights.write_bytes(bytes(len(before)))
    import os

    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert text(Engine.load(folder)) == expected


def test_a_pack_of_other_weights_is_not_used(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", tokenizer, 1)
    pack_model(folder, "fp32")
    exported(folder, tokenizer, 2)
    assert find_pack(find(folder), "fp32") is None
    assert text(Engine.load(folder)) == text(Engine.load(exported(tmp_path / "other", tokenizer, 2)))
    assert pack_model(folder, "fp32")[1]
    # A copy has other times and the same bytes.
    (folder / "model.safetensors").touch()
    assert find_pack(find(folder), "fp32") is not None
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert find_pack(find(folder), "fp32") is None


def test_a_damaged_pack_is_made_anew(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", tokenizer, 1)
    path, _ = pack_model(folder, "fp32")
    expected = text(Engine.load(folder))
    path.write_bytes(path.read_bytes()[:100])
    assert find_pack(find(folder), "fp32") is None and text(Engine.load(folder)) == expected
    assert pack_model(folder, "fp32")[1]


def test_a_folder_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", tokenizer, 1)
    path, _ = pack_model(folder, "fp32", tmp_path / "packs")
    assert path == path_of(find(folder), "fp32", tmp_path / "packs") and not (folder / "packed").exists()
    assert text(Engine.load(folder, pack_folder=tmp_path / "packs")) == text(Engine.load(folder))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name another folder"):
        pack_model(folder, "fp32", tmp_path / "file")


def test_a_task_model_is_packed_with_its_head(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = TransformerConfig(
        d_model=16, n_heads=2, n_layers=1, d_ff=32, vocab_size=tokenizer.vocab_size, max_positions=32
    )
    head = HeadConfig(task="classify", labels=("no", "yes"))
    model = initialize(TaskModel(config.replace(init_std=0.3), head), seed=0)
    export_native_task(model, tokenizer, tmp_path)
    expected = Engine.load(tmp_path).classify(["the cat"])
    assert Engine.load(tmp_path, pack=True).classify(["the cat"]) == expected
    assert find_pack(find(tmp_path), "fp32") is not None


MEASURE = """
import sys, time
from pathlib import Path
import torch
import mainspring.infer
from mainspring.infer import Engine
def resident():
    kinds = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split(":")
        kinds[name] = int(size.split()[0]) * 1024
    return kinds["Rss"]
before = resident()
began = time.perf_counter()
engine = Engine.load(sys.argv[1])
seconds = time.perf_counter() - began
mapped = resident() - before
total = sum(float(p.sum()) for p in engine.model.parameters())  # every page is touched
print(seconds, mapped, resident() - before)
"""


def test_a_packed_model_starts_at_once_and_is_in_memory_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("memory is read from /proc/self/smaps_rollup")
    config = resolve(
        MODEL.replace(config={"d_model": 512, "n_heads": 8, "n_layers": 8, "d_ff": 2048}),
        tokenizer.vocab_size,
    )
    model = initialize(Transformer(config), seed=0)
    tokenizer.save(tmp_path / "tokenizer.json")
    export_native(MODEL, config, model.state_dict(), tmp_path / "tokenizer.json", tmp_path)
    weights = sum(p.nbytes for p in model.parameters())
    assert weights > 90e6
    pack_model(tmp_path, "fp32")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, mapped, touched = (float(number) for number in done.stdout.split())
    assert seconds < 1.0
    assert mapped < 0.4 * weights, "loading maps the file and reads none of it"
    assert touched < 1.35 * weights + 30e6
