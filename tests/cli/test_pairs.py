"""`mainspring data pairs`: files into pairs that a recipe trains on; wrong input named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Command
from mainspring.data.pair_corpora import PairCorpora
from support.tiny_run import build_data, overrides, sentences


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a mask token, and files of parallel text beside it."""
    root = tmp_path_factory.mktemp("pairs")
    lines = sentences(3, 40).splitlines()
    back = [" ".join(reversed(line.split())) for line in lines]
    (root / "a.en").write_text("\n".join(lines))
    (root / "a.de").write_text("\n".join(back))
    rows = [f"{one}\t{two}" for one, two in zip(lines, back, strict=True)]
    (root / "a.tsv").write_text("\n".join([*rows[:3], "no tab", *rows[3:], "\t"]))
    build_data(root / "data", kind="wordpiece")
    return root


def test_pairs_are_written_shown_and_trained_on(command: Command, words: Path, tmp_path: Path) -> None:
    arguments = [f"en:de={words / 'a.en'},{words / 'a.de'}", f"en:fr={words / 'a.tsv'}"]
    where = ["--to", tmp_path / "pairs", "--tokenizer", words / "data"]
    shown = command("data", "pairs", *arguments, *where, "--both-ways")
    assert shown.code == 0, shown.err
    for text in ("4 directions", "fr-en", "left out of en-fr: 2 lines", "a.tsv, line 4: not two columns"):
        assert text in shown.out
    assert "languages by index: de, en, fr" in shown.out
    told = command("data", "pairs", *arguments, *where, "--languages", "fr,en,de", "--json")
    assert json.loads(told.out)["directions"]["en-de"]["pairs"] == 40
    assert PairCorpora.open(tmp_path / "pairs").directions["en-fr"].langs == (1, 0)
    settings = [*overrides(words / "data"), f'data.pairs="{tmp_path / "pairs"}"', 'objective={kind="tlm"}']
    trained = command("train", "bert-tiny", *settings, "--to", tmp_path / "run", "--quiet")
    assert trained.code == 0, trained.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["en-de=a.tsv"], "write it as SRC:TGT=FILE or SRC:TGT=FILE,FILE"),
        (["en:de=a.en,"], "a comma stands between two files"),
        (["en:de=none.tsv"], "none.tsv: no such file"),
        (["en:d=a.tsv"], "'d' is not a language code"),
        (["en:de=a.tsv", "--languages", "en,fr"], "'de' is not among the languages"),
        (["en:de=a.en"], "no pair of two texts"),
        (["en:de=a.tsv", "--max-tokens", "0"], "max-tokens"),
        (["en:de=a.tsv", "--tokenizer", "nowhere"], "nowhere"),
        ([], "Missing argument"),
    ],
)
def test_wrong_input_is_named(
    command: Command, words: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(words)
    found = command("data", "pairs", "--tokenizer", "data", *arguments, "--to", "out")
    assert found.code == 2 and said in found.err and "Traceback" not in found.err
    assert not (words / "out").exists()
