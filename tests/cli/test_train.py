"""mainspring train: runs, goes on, refuses another recipe, begins anew, and saves when it is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainspring.recipes import load
from mainspring.train.checkpoint import load_model_state
from mainspring.train.source import checkpoint_of
from support.tiny_run import overrides

from .conftest import Command


def steps_of(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["event"] == "step_done"]


def test_a_run_leaves_what_it_promises(run_dir: Path) -> None:
    for name in ("recipe.toml", "plan.json", "metrics.jsonl", "tokenizer.json", "probe.safetensors"):
        assert (run_dir / name).is_file()
    assert [p.name for p in sorted((run_dir / "checkpoints").iterdir())] == ["step-00000002", "step-00000003"]
    assert steps_of(run_dir) == [1, 2, 3]


def test_a_finished_run_has_nothing_left_to_do(command: Command, data: Path, run_dir: Path) -> None:
    outcome = command("train", "gpt2-tiny", *overrides(data), "--to", run_dir)
    assert outcome.code == 0
    assert "resumed after step 3 of 3" in outcome.err
    assert steps_of(run_dir) == [1, 2, 3]


def test_another_recipe_is_refused_with_the_differences(command: Command, data: Path, run_dir: Path) -> None:
    outcome = command("train", "gpt2-tiny", *overrides(data, steps=5), "optim.lr=0.5", "--to", run_dir)
    assert outcome.code == 2
    assert "optim.lr: the run has 0.001, you ask for 0.5" in outcome.err
    assert "train.steps: the run has 3, you ask for 5" in outcome.err
    assert "--fresh" in outcome.err


def test_resume_goes_on_under_new_settings_and_fresh_begins_anew(
    command: Command, data: Path, run_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    longer = overrides(data, steps=4)
    assert command("train", "gpt2-tiny", *longer, "--to", run, "--resume").code == 0
    assert steps_of(run) == [1, 2, 3, 4]
    (run / "mine.txt").write_text("kept")
    outcome = command("train", "gpt2-tiny", *longer, "--to", run, "--fresh")
    assert outcome.code == 0
    assert "resumed" not in outcome.err
    assert steps_of(run) == [1, 2, 3, 4]
    assert (run / "mine.txt").read_text() == "kept"
    assert command("train", run).code == 0


def test_a_run_begins_with_the_weights_of_another(
    command: Command, data: Path, run_dir: Path, tmp_path: Path
) -> None:
    wanted = overrides(data, steps=1, seed=9)
    assert command("train", "gpt2-tiny", *wanted, "--from", run_dir, "--to", tmp_path / "further").code == 0
    assert command("train", "gpt2-tiny", *wanted, "--to", tmp_path / "anew").code == 0
    recipe = load(tmp_path / "further")
    assert recipe.train.init_from == str(run_dir)
    state, further, anew = (
        load_model_state(checkpoint_of(run)[1])["layers.0.feed_forward.up.weight"]
        for run in (run_dir, tmp_path / "further", tmp_path / "anew")
    )
    # One step moves a weight by about the learning rate at most.
    assert (further - state).abs().max() < 0.01 < (anew - state).abs().max()
    outcome = command("train", "gpt2-tiny", *wanted, "--from", tmp_path / "none", "--to", tmp_path / "no")
    assert outcome.code == 2 and "train.init_from" in outcome.err and "mainspring import" in outcome.err


def test_resume_and_fresh_exclude_each_other(command: Command) -> None:
    assert command("train", "gpt2-tiny", "--resume", "--fresh").code == 2


@pytest.mark.distributed
def test_ctrl_c_saves_and_ends(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = overrides(data, steps=100_000, checkpoint_every=0)
    line = [
        sys.executable,
        "-m",
        "mainspring",
        "train",
        "gpt2-tiny",
        *words,
        "--to",
        str(run),
        "--nproc",
        "2",
    ]
    process = subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((run / "metrics.jsonl").exists() and len(steps_of(run)) >= 2):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    step = steps_of(run)[-1]
    assert f"interrupted after step {step}" in said
    assert (run / "checkpoints" / f"step-{step:08}" / "manifest.json").is_file()
    assert "Traceback" not in said
