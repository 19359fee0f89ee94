"""Models made small by command: pruned, measured, quantised, each from what the one before wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mainspring.models.native import import_native, read_encoded
from mainspring.recipes.compression import Text
from mainspring.recipes.sensitivity import report
from support.tiny_run import sentences

from .conftest import Command


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of the kind that the tiny runs are trained on."""
    file = tmp_path_factory.mktemp("calibrate") / "text.txt"
    file.write_text("\n\n".join(sentences(seed, 2) for seed in range(500, 512)))
    return file


def test_a_run_is_pruned_measured_and_quantised(
    command: Command, run_dir: Path, text: Path, tmp_path: Path
) -> None:
    small, bits, plot = tmp_path / "small", tmp_path / "bits.json", tmp_path / "plot.svg"
    told = command(
        "prune", run_dir, "--to", small, "--layers", 1, "--heads", 1, "--d-ff", 32, "--calibrate", text
    )
    assert told.code == 0 and "1 layers of 1 heads and d_ff = 32" in told.out
    config = import_native(small).config
    assert (config.n_layers, config.n_heads, config.head_width, config.d_ff) == (1, 1, 16, 32)
    asked = ("--calibrate", text, "--format", "int8", "--format", "int4", "--budget", 0.003, "--to", bits)
    told = command("sensitivity", small, *asked, "--plot", plot)
    assert told.code == 0 and "layers.0" in told.out and "<svg" in plot.read_text()
    report = json.loads(bits.read_text())
    assert report["kind"] == "clm" and report["proposal"]["formats"] == {"layers.0": "int4"}
    out = tmp_path / "out"
    options = ("--format", "int8", "--bits", bits, "--embeddings", "int8", "--method", "gptq")
    told = command("quantize", small, "--to", out, *options, "--calibrate", text, "--json")
    assert told.code == 0
    done = json.loads(told.out)
    assert done["bytes"] < 0.6 * (small / "model.safetensors").stat().st_size
    found = {name: form.name for name, (_, form) in read_encoded(out).items()}
    assert found["layers.0.attention.qkv.weight"] == "int4" and found["embeddings.token.weight"] == "int8"
    assert command("generate", out, "the model", "--max-tokens", 4).code == 0
    again = command("prune", out, "--to", tmp_path / "again", "--d-ff", 16, "--calibrate", text)
    assert again.code == 0, "what is quantised can be pruned"


def test_a_budget_of_time(run_dir: Path, text: Path) -> None:
    found = report(run_dir, Text(text, 4), formats=("int8",), budget=1e9, rows=4)
    assert found.unit == "milliseconds" and found.proposal is not None
    assert found.proposal.loss <= 0, "whole weights fit, and lose nothing"
    assert all(option.cost > 0 for option in found.options)


def test_wrong_input_is_told(command: Command, run_dir: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, said in (
        (("quantize", run_dir, "--to", out, "--method", "gptq"), "needs calibration text"),
        (("quantize", run_dir, "--to", out, "--format", "int77"), "no number format is called 'int77'"),
        (("quantize", tmp_path / "no", "--to", out), "neither a run"),
        (("quantize", run_dir, "--to", out, "--layer", "layers.0"), "write it as NAME=FORMAT"),
        (("quantize", run_dir, "--to", out, "--bits", tmp_path / "no.json"), "no proposal can be read"),
        (("prune", run_dir, "--to", out), "nothing is to be taken out"),
        (("prune", run_dir, "--to", out, "--heads", 1), "give some with --calibrate"),
        (("prune", run_dir, "--to", out, "--layers", "one"), "give how many to keep (6), or which (0,2,5)"),
        (("sensitivity", run_dir), "give some with --calibrate"),
        (("sensitivity", run_dir, "--budget", 1, "--latency", 1), "exclude each other"),
        (("sensitivity", run_dir, "--calibrate", text, "--budget", 0), "is below"),
    ):
        told = command(*arguments)
        assert told.code == 2 and said in told.err, (arguments, told)
    assert not out.exists()
