"""`mainspring search`: what a person types and what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command


@pytest.fixture
def built(command: Command, tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "watch.md").write_text(
        "# Mainspring\n\nA mainspring drives a [red]watch[/red]. It stores energy."
    )
    (docs / "river.txt").write_text("Rivers\n\nRivers run to the sea.")
    (docs / "bad.txt").write_bytes(b"\xff\x00")
    outcome = command("search", "index", docs, "--to", tmp_path / "i", "--encoder", "none")
    assert outcome.code == 0
    assert "2 documents added" in outcome.out
    assert "left out: 1 files or rows" in outcome.out
    assert "bad.txt: cannot be read" in outcome.out
    return tmp_path / "i"


def test_index_query_and_check(command: Command, built: Path) -> None:
    found = command("search", "query", "what does a watch need?", "--index", built)
    assert found.code == 0
    assert "1. Mainspring" in found.out
    assert "[red]watch[/red]" in found.out
    assert "note: the index was made without an encoder" in found.err
    values = json.loads(command("search", "query", "energy", "--index", built, "--json", "--words").out)
    assert [hit["title"] for hit in values["hits"]] == ["Mainspring"]
    none = command("search", "query", "energy", "--index", built, "--filter", "language=de")
    assert "0 of 0 documents" in none.out
    assert "all checksums hold" in command("search", "check", built).out
    again = json.loads(command("search", "index", built.parent / "docs", "--to", built, "--json").out)
    assert (again["added"], again["unchanged"], again["holds"]["documents"]) == (0, 2, 2)


def test_shards_are_searched_as_one(command: Command, built: Path, tmp_path: Path) -> None:
    made = command("search", "split", built, "--to", tmp_path / "shards", "--shards", 2)
    assert made.code == 0
    assert made.out.count("documents") == 2
    one, two = (
        json.loads(command("search", "query", "energy watch sea", "--index", index, "--json").out)
        for index in (built, tmp_path / "shards")
    )
    assert [hit["key"] for hit in one["hits"]] == [hit["key"] for hit in two["hits"]]
    assert (len(two["hits"]), two["lost"]) == (2, [])
    again = command("search", "split", built, "--to", tmp_path / "shards")
    assert again.code == 2
    assert "an index is here already" in again.err
    assert command("search", "split", built, "--to", tmp_path / "none", "--shards", 0).code == 2


def test_damage_is_told_and_repaired(command: Command, built: Path) -> None:
    term = next((built / "lexical").glob("*.term"))
    term.write_bytes(term.read_bytes()[:-1])
    told = command("search", "query", "energy", "--index", built)
    assert told.code == 2
    assert term.name in told.err
    assert "--repair" in told.err
    assert command("search", "check", built).code == 2
    mended = command("search", "check", built, "--repair")
    assert mended.code == 0
    assert f"built anew: lexical/{term.name}" in mended.out
    assert "1. Mainspring" in command("search", "query", "energy", "--index", built).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["query", "x", "--index", "nowhere"], "no index is here"),
        (["check", "nowhere"], "no index is here"),
        (["index", "no-such-file", "--to", "new"], "no such file"),
        (["index", "--to", "new", "--encoder", "no-such-model"], "no-such-model"),
        (["train", "--data", "nowhere", "--to", "heads"], "understanding/boolq"),
        (["train", "--to", "heads", "examples.boolk=1"], "boolq"),
        (["tune", "no-clicks.jsonl", "--index", "nowhere"], "cannot be read"),
        (["questions", "nowhere"], "no index is here"),
    ],
)
def test_wrong_input(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("search", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_filters_are_checked_and_the_encoder_stays(command: Command, built: Path) -> None:
    outcome = command("search", "query", "x", "--index", built, "--filter", "language")
    assert outcome.code == 2
    assert "FIELD=VALUE" in outcome.err
    outcome = command("search", "index", built.parent / "docs", "--to", built, "--encoder", "x")
    assert outcome.code == 2
    assert "exists already" in outcome.err


def test_what_needs_an_encoder_says_so(command: Command, built: Path, tmp_path: Path) -> None:
    outcome = command("search", "questions", built)
    assert outcome.code == 2
    assert "without an encoder" in outcome.err
    clicks = tmp_path / "clicks.jsonl"
    clicks.write_text('{"query": "watch", "key": "x"}\n\n{"query": 1}\n')
    outcome = command("search", "tune", clicks, "--index", built)
    assert outcome.code == 2
    assert "line 3" in outcome.err
    clicks.write_text('{"query": "watch", "key": "x"}\n')
    outcome = command("search", "tune", clicks, "--index", built)
    assert outcome.code == 2
    assert "without an encoder" in outcome.err
