"""Layouts that models are exported in and imported from, by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BertConfig, BertModel

from mainspring.models import remote
from mainspring.text.tokenizer import Tokenizer
from mainspring.text.train import train_tokenizer
from mainspring.train.checkpoint import load_model_state
from mainspring.train.run import Run
from mainspring.train.source import checkpoint_of
from support.tiny_run import build_data

from .conftest import Command


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (
            ("megatron", "--ranks", 2, "--qkv-version", "0"),
            ["mp_rank_00.safetensors", "mp_rank_01.safetensors"],
        ),
        (("safetensors",), ["mainspring.json", "model.safetensors"]),
    ],
)
def test_a_run_goes_out_and_comes_back(
    command: Command, run_dir: Path, tmp_path: Path, options: tuple[object, ...], files: list[str]
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert command("export", run_dir, "--to", out, "--format", *options).code == 0
    assert all((out / file).is_file() for file in files)
    assert command("import", out, "--to", back).code == 0
    before, after = (load_model_state(checkpoint_of(d)[1]) for d in (run_dir, back))
    assert before.keys() == after.keys() and all(torch.equal(after[n], t) for n, t in before.items())


def test_a_model_of_transformers_comes_in_as_a_family(command: Command, tmp_path: Path) -> None:
    """A bare BERT whose vocabulary is no multiple of anything, taken for the MiniLM it is."""
    tokenizer = train_tokenizer(["some words of text"] * 20, "wordpiece", 77)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **shape)).save_pretrained(tmp_path / "in")
    tokenizer.save(tmp_path / "in" / "tokenizer.json")
    run, out = tmp_path / "run", tmp_path / "out"
    assert command("import", tmp_path / "in", "--to", run, "--family", "minilm").code == 0
    recipe = Run(run).read_recipe()
    assert recipe.model.family == "minilm" and recipe.objective.kind == "mlm"
    assert command("export", run, "--to", out).code == 0
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModel"]
    assert Tokenizer.load(out).hash == tokenizer.hash
    one, two = (BertModel.from_pretrained(tmp_path / d).state_dict() for d in ("in", "out"))
    assert all(torch.equal(one[n], t) for n, t in two.items())


def test_a_model_comes_in_by_its_name_on_the_hub(
    command: Command, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def snapshot(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path / "out")

    monkeypatch.setattr(remote, "snapshot_download", snapshot)
    assert command("export", run_dir, "--to", tmp_path / "out").code == 0
    assert command("import", "owner/name@v1", "--to", tmp_path / "back").code == 0
    assert asked == [("owner/name", "v1")]
    before, after = (load_model_state(checkpoint_of(d)[1]) for d in (run_dir, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(after[n], t) for n, t in before.items())


def test_an_imported_model_is_trained_further(
    command: Command, run_dir: Path, data: Path, tmp_path: Path
) -> None:
    out, run, other = tmp_path / "out", tmp_path / "run", tmp_path / "other"
    assert command("export", run_dir, "--to", out).code == 0
    assert command("import", out, "--to", run, "--data", data).code == 0
    before = load_model_state(checkpoint_of(run)[1])
    settings = ["train.steps=1", "train.batch_tokens=128", "data.seq_len=32", "--resume", "--quiet"]
    still = ["optim.lr=1e-12", "optim.weight_decay=0"]  # where it began can be seen
    assert command("train", run, *still, *settings).code == 0
    newest = checkpoint_of(run)[1]
    assert newest.name == "step-00000001"
    for name, tensor in load_model_state(newest).items():
        torch.testing.assert_close(tensor, before[name], atol=1e-9, rtol=0)

    build_data(other, vocab_size=300)
    assert command("import", out, "--to", tmp_path / "wrong", "--data", other).code == 0
    outcome = command("train", tmp_path / "wrong", *settings)
    assert outcome.code == 2 and "tokenizer was" in outcome.err


def test_without_a_network_an_import_says_what_to_do(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no route to the hub")

    monkeypatch.setattr(remote, "snapshot_download", unreachable)
    outcome = command("import", "owner/name", "--to", tmp_path / "run")
    assert outcome.code == 2
    assert "owner/name" in outcome.err and "hf download owner/name" in outcome.err
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_exported_is_told(command: Command, run_dir: Path, tmp_path: Path) -> None:
    outcome = command("export", run_dir, "--to", tmp_path, "--format", "megatron", "--ranks", 3)
    assert outcome.code == 2
    assert "nearest legal value" in outcome.err
    outcome = command("import", tmp_path, "--to", tmp_path / "run")
    assert outcome.code == 2
    assert "no model is here" in outcome.err
