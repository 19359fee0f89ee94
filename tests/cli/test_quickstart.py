"""mainspring quickstart as a person sees it; the pipeline itself is tested in tests/recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainspring.errors import RunFault
from mainspring.products.search.documentation import search_documentation
from mainspring.recipes import quickstart
from mainspring.recipes.quickstart import Corpus, Summary
from mainspring.train.run import Run

from .conftest import Command


def test_it_ends_with_how_to_serve(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def run(out_dir: Path, **options: object) -> Summary:
        asked.update(options, out=out_dir)
        return Summary(Run(out_dir), report=out_dir / "report.html")

    monkeypatch.setattr(quickstart, "run", run)
    outcome = command("quickstart", "train.precision=fp32", "--out", tmp_path, "--steps", 5, "--corpus-mb", 2)
    assert outcome.code == 0
    assert f"mainspring serve {tmp_path}" in outcome.out
    assert "report.html" in outcome.out
    assert f"mainspring search serve {tmp_path / 'search'}" in outcome.out
    assert asked["search"] is search_documentation
    assert asked["steps"] == 5
    assert asked["corpus"] == Corpus(limit_bytes=2_000_000)
    assert asked["overrides"] == ["train.precision=fp32"]


def test_interrupted_is_130_and_says_how_to_go_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "run", lambda out_dir, **_: Summary(Run(out_dir), status="interrupted"))
    outcome = command("quickstart", "--out", tmp_path)
    assert outcome.code == 130
    assert f"go on with: mainspring quickstart --out {tmp_path}" in outcome.err


def test_a_failed_training_is_1(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> Summary:
        raise RunFault("training failed with exit code 1: no memory")

    monkeypatch.setattr(quickstart, "run", run)
    outcome = command("quickstart", "--out", tmp_path)
    assert outcome.code == 1
    assert "error: training failed with exit code 1: no memory" in outcome.err


def test_fresh_keeps_the_corpus(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    for name in ("recipe.toml", "metrics.jsonl", "summary.json", "report.html"):
        (tmp_path / name).write_text("old")
    for folder in ("checkpoints/step-00000001", "encoder", "encoder-int8", "search"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(quickstart, "run", lambda out_dir, **_: Summary(Run(out_dir)))
    assert command("quickstart", "--out", tmp_path, "--fresh").code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
