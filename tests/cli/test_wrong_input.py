"""Wrong input is answered with the field, the value, the numbers and the nearest legal choice, and exit
code 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.tiny_run import overrides

from .conftest import Command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "gpt2-tniy"], ["'gpt2-tniy'", "did you mean 'gpt2-tiny'?"]),
        (["plan", "no/such/file.toml"], ["no/such/file.toml", "no such file"]),
        (["plan", "gpt2-tiny", "train.stpes=3"], ["train.stpes: unknown key", "did you mean 'steps'?"]),
        (["plan", "gpt2-tiny", "train.steps=many"], ["train.steps = 'many'", "integer"]),
        (["plan", "gpt2-tiny", "train.steps=0"], ["train.steps = 0", "greater than or equal to 1"]),
        (["plan", "gpt2-tiny", "train.precision=bf61"], ["train.precision = 'bf61'", "did you mean 'bf16'?"]),
        (["plan", "gpt2-tiny", "steps"], ["override 'steps'", "section.field=value"]),
        (["plan", "gpt2-tiny", "model.family=gtp2"], ["'gtp2'", "did you mean 'gpt2'?"]),
        (["plan", "gpt2-tiny", "model.preset=smal"], ["'smal'", "did you mean 'small'?"]),
        (["plan", "gpt2-tiny", "plan.zero=4"], ["plan.zero = 4", "0, 1, 2 or 3"]),
        (["plan", "gpt2-tiny", "objective.kind=clmm"], ["objective", "clmm"]),
        (
            ["plan", "gpt2-tiny", "train.batch_tokens=100"],
            ["train.batch_tokens = 100", "multiple of 64", "64 or 128"],
        ),
        (
            ["plan", "gpt2-tiny", "model.config={n_heads=5}"],
            ["d_model = 128", "n_heads = 5", "nearest legal n_heads: 4"],
        ),
        (
            ["plan", "gpt2-tiny", "model.config={d_model=262144, d_ff=1048576, n_heads=64}"],
            ["a rank that computes one row of 64 tokens", "needs", "parameters", "and has", "GiB"],
        ),
        (["data", "build", "no-such-file.txt", "--to", "unused"], ["no-such-file.txt"]),
        (
            ["data", "build", "embedded:udrh", "--to", "unused"],
            ["'embedded:udrh'", "did you mean 'embedded:udhr'?"],
        ),
        (
            ["data", "build", "embedded:udhr", "--to", "unused", "--vocab-size", "40"],
            ["vocab_size = 40", "257"],
        ),
        (
            ["data", "build", "embedded:udhr", "--to", "unused", "--holdout", "1.5"],
            ["holdout = 1.5", "less than 1"],
        ),
        (["data", "inspect", "no-such-dir"], ["no-such-dir", "mainspring data build"]),
        (["evaluate", "no-such-run"], ["no-such-run", "recipe.toml"]),
        (["export", "no-such-run", "--to", "unused"], ["no-such-run", "neither a run"]),
        (["import", "no-such-model", "--to", "unused"], ["no-such-model", "config.json"]),
        (["report", "no-such-run"], ["no-such-run", "not a run directory"]),
        (["quickstart", "--minutes", "0"], ["--minutes 0", "above 0"]),
    ],
)
def test_the_message_names_what_is_wrong(
    arguments: list[str], said: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    for words in said:
        assert words in outcome.err
    assert "Traceback" not in outcome.err


def test_a_recipe_that_is_not_toml_names_the_line(command: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "x"\n[train\nsteps = 1\n')
    outcome = command("train", recipe)
    assert outcome.code == 2
    assert "mine.toml: not valid TOML" in outcome.err
    assert "line 2" in outcome.err


def test_damaged_data_is_refused(command: Command, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(data, copy)
    shard = next(copy.glob("shards/*.bin"))
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    found = command("data", "inspect", copy)
    assert found.code == 2
    assert f"{shard}: damaged" in found.err
    shard.write_bytes(content[:-4])
    trained = command("train", "gpt2-tiny", *overrides(copy), "--to", tmp_path / "run")
    assert trained.code == 2
    assert f"{shard}: truncated: {len(content) - 4} bytes, the manifest says {len(content)}" in trained.err


def test_data_of_another_kind_is_refused(command: Command, data: Path, tmp_path: Path) -> None:
    outcome = command("train", "bert-tiny", *overrides(data), "--to", tmp_path / "run")
    assert outcome.code == 2
    assert "mask" in outcome.err


def test_a_plan_that_cannot_start_is_told_once_and_before_processes(
    command: Command, data: Path, tmp_path: Path
) -> None:
    outcome = command(
        "train", "gpt2-tiny", *overrides(data, batch_tokens=96), "--nproc", 2, "--to", tmp_path / "r"
    )
    assert outcome.code == 2
    assert outcome.err.count("train.batch_tokens = 96: should be a multiple of 64") == 1
    assert not (tmp_path / "r" / "metrics.jsonl").exists()
