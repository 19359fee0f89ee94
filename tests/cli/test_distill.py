"""`mainspring distill`: a student by command, from a run and from an exported model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainspring.evaluate.probe import verify
from mainspring.train.checkpoint import load_model_state
from mainspring.train.run import Run
from mainspring.train.source import checkpoint_of, read_weights
from support.tiny_run import build_data, overrides

from .conftest import Command


@pytest.fixture(scope="module")
def masked_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token data with a mask token."""
    return build_data(tmp_path_factory.mktemp("distill") / "data", kind="wordpiece", vocab_size=200)


def test_a_student_by_command(command: Command, masked_data: Path, tmp_path: Path) -> None:
    settings = overrides(masked_data, steps=2)
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert command("train", "bert-tiny", *settings, "--to", teacher, "--quiet").code == 0
    small = "model.config={ d_model = 16, n_heads = 2, n_layers = 1, d_ff = 32, max_positions = 64 }"
    asked = ("bert-tiny", *settings, small, "objective.relation_heads=4", "--to", student, "--quiet")
    assert command("distill", teacher, *asked).code == 0
    recipe = Run(student).read_recipe()
    assert recipe.objective.kind == "distill" and recipe.objective.relation_heads == 4
    assert recipe.objective.teacher == str(teacher)
    assert verify(read_weights(student).state, read_weights(student).config, Run(student)).identical
    assert command("distill", teacher, *asked).code == 0, "the same command again: nothing is left to do"
    out = tmp_path / "out"
    assert command("export", student, "--to", out, "--format", "safetensors").code == 0
    state = load_model_state(checkpoint_of(student)[1])
    assert any(name.startswith("teacher.layers.1.") for name in state)


def test_wrong_input_is_told(command: Command, masked_data: Path, tmp_path: Path) -> None:
    told = command("distill", tmp_path / "nothing", "bert-tiny", *overrides(masked_data))
    assert told.code == 2 and "objective.teacher" in told.err
