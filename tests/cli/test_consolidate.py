"""`mainspring consolidate` on a run, on a checkpoint of it, and on what is neither."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from mainspring.config import to_toml
from mainspring.train.checkpoint import load_model_state
from mainspring.train.run import Run
from mainspring.train.source import checkpoint_of

from .conftest import Command


def test_a_run_and_a_checkpoint_give_whole_weights(command: Command, run_dir: Path, tmp_path: Path) -> None:
    _, checkpoint = checkpoint_of(run_dir)
    expected = load_model_state(checkpoint)
    outcome = command("consolidate", run_dir, "--out", tmp_path / "a")
    assert outcome.code == 0 and outcome.out.strip() == str(tmp_path / "a")
    assert "step 3" in outcome.err and "verified" in outcome.err
    assert command("consolidate", checkpoint, "--out", tmp_path / "b", "--optimizer").code == 0
    for folder in ("a", "b"):
        loaded = load_file(tmp_path / folder / "model.safetensors")
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    states = load_file(tmp_path / "b" / "optimizer.safetensors")
    assert {name.rpartition(".")[2] for name in states} == {"exp_avg", "exp_avg_sq", "step"}
    # What it made is a checkpoint too, without a run around it.
    assert command("consolidate", tmp_path / "b", "--out", tmp_path / "c").code == 0
    again = load_file(tmp_path / "c" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_an_imported_model_is_whole_too(command: Command, run_dir: Path, tmp_path: Path) -> None:
    assert command("export", run_dir, "--to", tmp_path / "hf").code == 0
    assert command("import", tmp_path / "hf", "--to", tmp_path / "run").code == 0
    assert command("consolidate", tmp_path / "run", "--out", tmp_path / "out").code == 0


def test_what_is_not_the_recipes_model_is_refused(command: Command, run_dir: Path, tmp_path: Path) -> None:
    run, checkpoint = checkpoint_of(run_dir)
    other = Run(tmp_path / "other")
    other.checkpoints.mkdir(parents=True)
    (other.checkpoints / checkpoint.name).symlink_to(checkpoint)
    recipe = run.read_recipe()
    shape = {**recipe.model.config, "d_ff": 256}
    wrong = recipe.replace(model={**recipe.model.model_dump(mode="json"), "config": shape})
    other.recipe.write_text(to_toml(wrong))
    other.tokenizer.write_bytes(run.tokenizer.read_bytes())
    outcome = command("consolidate", other.dir, "--out", tmp_path / "out")
    assert outcome.code == 2 and not (tmp_path / "out").exists()
    assert "not the whole model" in outcome.err and "feed_forward.up.weight: checkpoint [" in outcome.err


def test_wrong_paths_are_said(command: Command, run_dir: Path, tmp_path: Path) -> None:
    outcome = command("consolidate", tmp_path, "--out", tmp_path / "out")
    assert outcome.code == 2 and "neither a run" in outcome.err
    outcome = command("consolidate", run_dir, "--out", tmp_path)
    assert outcome.code == 2 and "exists" in outcome.err
