"""The other commands on real input: what they print, and what other programs get from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mainspring.cli.data import named_sources
from mainspring.evaluate.probe import verify
from mainspring.infer import Engine
from mainspring.train.checkpoint import load_model_state
from mainspring.train.source import checkpoint_of
from support.tiny_run import build_data, overrides

from .conftest import Command


def test_doctor_finds_what_is_required(command: Command) -> None:
    outcome = command("doctor")
    assert outcome.code == 0
    assert "all that is required is here" in outcome.out
    checks = json.loads(command("doctor", "--json").out)
    found = {check["name"]: check for check in checks}
    for name in ("python", "torch", "numpy", "cores", "memory", "gloo", "extra: serve", "extra: plot"):
        assert found[name]["status"] == "ok", found[name]


def test_doctor_says_what_a_missing_extra_costs(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    real = metadata.version

    def version(name: str) -> str:
        if name in ("fastapi", "torch"):
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "numpy" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    outcome = command("doctor", "--json")
    found = {check["name"]: check for check in json.loads(outcome.out)}
    assert outcome.code == 1
    assert found["torch"]["status"] == found["numpy"]["status"] == "failed"
    assert "0.1, but >=" in found["numpy"]["found"]
    assert found["extra: serve"]["status"] == "missing"
    assert "mainspring serve; pip install 'mainspring[serve]'" in found["extra: serve"]["lost"]


def test_data_build_and_inspect(command: Command, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    good = [
        json.dumps({"text": f"Number {i} is a number like any other, and {i + 1} follows it."})
        for i in range(80)
    ]
    lines.write_text("\n".join([*good[:40], "{broken", *good[40:]]))
    data = tmp_path / "data"
    built = command("data", "build", f"mine={lines}", "--to", data, "--vocab-size", 300, "--holdout", 0.2)
    assert built.code == 0
    assert "mine" in built.out
    assert f"left out: {lines}, line 41" in built.out
    shown = command("data", "inspect", data, "--sample", 1)
    assert shown.code == 0
    assert "all checksums hold" in shown.out
    assert "is a number like any other" in shown.out
    found = json.loads(command("data", "inspect", data, "--json").out)
    assert found["splits"]["train"]["documents"] + found["splits"]["holdout"]["documents"] == 80
    again = command("data", "build", lines, "--to", tmp_path / "more", "--tokenizer", data, "--json")
    assert json.loads(again.out)["sources"]["lines"]["faults"] == 1


def test_sources_get_distinct_names() -> None:
    names = [
        name for name, _ in named_sources(["a/b.txt", "c/b.txt", "x=b.txt", "d e/ü.csv", "embedded:udhr"])
    ]
    assert names == ["b", "b-2", "x", "text", "udhr"]


def test_plan_in_words_and_as_json(command: Command) -> None:
    words = command("plan", "gpt2-small", "plan.zero=3", "--ranks-here", 1)
    assert words.code == 0
    for part in ("bytes per rank", "FLOPs per token", "seconds per step", "124 M"):
        assert part in words.out
    found = json.loads(command("plan", "gpt2-tiny", "plan.data=2", "plan.zero=2", "--json").out)
    kinds = found["estimate"]["bytes_by_kind"]
    assert sum(kinds.values()) == found["estimate"]["bytes_per_rank"]
    assert found["estimate"]["fits"] is True
    assert found["seconds"] == pytest.approx(found["estimate"]["seconds_per_step"] * found["steps"])


def test_schema_describes_a_recipe(command: Command) -> None:
    schema = json.loads(command("schema").out)
    assert {"model", "data", "train", "plan"} <= set(schema["properties"])
    assert schema["$defs"]["TrainConfig"]["properties"]["steps"]["description"] == "Optimizer steps."
    assert "d_model" in json.loads(command("schema", "model").out)["properties"]


def test_evaluate_is_beside_baselines_on_the_same_tokens(command: Command, run_dir: Path) -> None:
    words = command("evaluate", run_dir)
    assert words.code == 0
    assert "Kneser-Ney 5-gram" in words.out
    kept = json.loads((run_dir / "evaluation.json").read_text())
    sizes = {(score["tokens"], score["bytes"]) for score in (kept["model"], *kept["baselines"].values())}
    assert len(sizes) == 1
    found = json.loads(command("evaluate", run_dir, "--max-tokens", 64, "--no-baselines", "--json").out)
    assert found["baselines"] == {}
    assert found["model"]["tokens"] < kept["model"]["tokens"]


def test_evaluate_of_a_masked_model_is_its_own_loss(command: Command, tmp_path: Path) -> None:
    data = build_data(tmp_path / "data", kind="wordpiece")
    run = tmp_path / "run"
    assert command("train", "bert-tiny", *overrides(data, eval_every=3, eval_tokens=0), "--to", run).code == 0
    found = json.loads(command("evaluate", run, "--json").out)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = next(event for event in events if event["event"] == "evaluated")
    assert found["tokens"] == told["tokens"]
    assert found["loss"] == pytest.approx(told["loss"], rel=1e-5)
    assert "predicted tokens" in command("evaluate", run).out


def test_export_and_import_keep_the_model(
    command: Command, data: Path, run_dir: Path, tmp_path: Path
) -> None:
    assert command("export", run_dir, "--to", tmp_path / "hf").code == 0
    assert command("import", tmp_path / "hf", "--to", tmp_path / "back").code == 0
    run, checkpoint = checkpoint_of(run_dir)
    _, imported = checkpoint_of(tmp_path / "back")
    config = Engine.load(run_dir).model.config
    for state in (load_model_state(checkpoint), load_model_state(imported)):
        agreement = verify(state, config, run)
        assert agreement.identical
        assert agreement.step == 3
    one = command("evaluate", tmp_path / "hf", "--data", data, "--seq-len", 32, "--no-baselines", "--json")
    two = command("evaluate", run_dir, "--data", data, "--no-baselines", "--json")
    assert json.loads(one.out)["model"] == pytest.approx(json.loads(two.out)["model"], rel=1e-6)
    refused = command("import", tmp_path / "hf", "--to", tmp_path / "back")
    assert refused.code == 2
    assert "is a run already" in refused.err


def test_a_model_without_data_needs_to_be_told(command: Command, run_dir: Path, tmp_path: Path) -> None:
    command("export", run_dir, "--to", tmp_path / "hf")
    outcome = command("evaluate", tmp_path / "hf")
    assert outcome.code == 2
    assert "--data DIR" in outcome.err


def test_report_is_one_file_by_itself(command: Command, run_dir: Path) -> None:
    outcome = command("report", run_dir)
    assert outcome.code == 0
    assert outcome.out.strip() == str(run_dir / "report.html")
