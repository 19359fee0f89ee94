"""`mainspring spell`: texts, files, standard input, wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Command
from support import tiny_speller


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "speller"
    made.mkdir()
    return tiny_speller.write(made)


def test_a_text_needs_no_command(command: Command, folder: Path) -> None:
    done = command("spell", "recieve the pakage", "--language", "en", "--speller", folder)
    assert (done.code, done.out) == (0, "receive the package\n")
    assert (
        command("spell", "--language", "en", "--speller", folder, "recieve", "teh", "pakage").out
        == "receive the package\n"
    )


def test_a_file_is_corrected_into_another(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("I recieve alot\nhttp://teh.example\n", encoding="utf-8")
    done = command(
        "spell", "--language", "auto", tmp_path / "in.txt", "--speller", folder, "--to", tmp_path / "out.txt"
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "I receive a lot\nhttp://teh.example\n"


def test_details_and_json(command: Command, folder: Path) -> None:
    done = command("spell", "recieve it", "--language", "en", "--speller", folder, "--details")
    assert "0-7 recieve -> receive" in done.err and "language: en (given)" in done.err
    found = json.loads(command("spell", "recieve it", "--language", "en", "--speller", folder, "--json").out)
    assert (
        found["corrected"].startswith("receive") and found["words"][0]["candidates"][0]["text"] == "receive"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x", "--language", "xx"], "is not one that is corrected"),
        (["x", "--language", "en", "--threshold", "2"], "threshold = 2.0"),
        (["x", "--speller", "/nowhere"], "cannot be read"),
    ],
)
def test_wrong_input_is_told(command: Command, arguments: list[str], words: str) -> None:
    done = command("spell", *arguments)
    assert done.code == 2 and words in done.err and "Traceback" not in done.err


def test_training_without_data_is_told(command: Command, tmp_path: Path) -> None:
    done = command("spell", "train", "--data", tmp_path, "--to", tmp_path / "made")
    assert done.code == 2 and "no folder of spelling data" in done.err


def test_languages_are_listed(command: Command) -> None:
    rows = json.loads(command("spell", "languages", "--json").out)
    assert len(rows) >= 100 and {"tag": "sr", "name": "Serbian", "family": "Cyrl-slavic"} in rows
