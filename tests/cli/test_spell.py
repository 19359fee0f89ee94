"""`mainspring spell`: texts, files, standard input, wrong input."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import pytest

from cli.conftest import Command
from mainspring.cli.main import main
from support import small_spelling_data, tiny_speller


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


def test_bytes_that_are_no_text_come_out_as_they_went_in(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    held = b"I recieve caf\xe9 \xff\xfe pakage\r\n\xed\xa0\x80teh\xc3 alot"
    (tmp_path / "in.txt").write_bytes(held)
    common = ("spell", "--language", "en", "--speller", folder, tmp_path / "in.txt")
    done = command(*common, "--to", tmp_path / "out.txt", "--details")
    assert done.code == 0, done.err
    wanted = b"I receive caf\xe9 \xff\xfe package\r\n\xed\xa0\x80teh\xc3 a lot"
    assert (tmp_path / "out.txt").read_bytes() == wanted
    assert json.loads(command(*common, "--json").out)["text"] == held.decode("utf-8", "replace")


def test_standard_input_of_any_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    held = random.Random(3).randbytes(20_000).replace(b"\n", b" ") + b" recieve \n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(held)))
    assert main(["spell", "-", "--language", "en", "--speller", str(folder)]) == 0
    assert capsysbinary.readouterr().out == held.replace(b" recieve ", b" receive ")


def test_a_long_text_is_no_file(command: Command, folder: Path) -> None:
    done = command("spell", "recieve the pakage " * 30, "--language", "en", "--speller", folder)
    assert done.code == 0 and done.out.count("receive the package") == 30
    assert command("spell", "caf\udce9 pakage", "--language", "en", "--speller", folder, "--json").code == 0


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


def test_a_speller_is_made_and_goes_on_where_it_was_interrupted(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_spelling_data.packages(monkeypatch)
    data = small_spelling_data.write(tmp_path / "data")
    (tmp_path / "own.toml").write_text('languages = ["de", "lfn"]\n')
    made = tmp_path / "made"
    train = ("spell", "train", "--data", data, "--recipe", tmp_path / "own.toml", "--to", made)
    done = command(*train)
    assert done.code == 0, done.err
    for part in (
        "lexicons: 2 of 2",
        "channels: 2 of 2",
        "ranker: 1 of 1",
        "calibration: 1 of 1",
        "ETA",
        "finished",
    ):
        assert part in done.err
    found = json.loads(command("spell", "die schulle", "--language", "de", "--speller", made, "--json").out)
    assert found["words"][0]["candidates"][0]["text"] == "schule"
    whole = {name: (made / name).read_bytes() for name in ("lexicons.bin", "speller.safetensors")}
    for lost in (
        ["speller.safetensors"],
        ["lexicons.bin", "parts/lfn.bin", "speller.safetensors", "parts/caution.json"],
    ):
        for name in lost:
            (made / name).unlink()
        assert command(*train).code == 0
        assert {name: (made / name).read_bytes() for name in whole} == whole
    assert not list(made.rglob("*.new*"))


def test_training_without_data_is_told(command: Command, tmp_path: Path) -> None:
    done = command("spell", "train", "--data", tmp_path, "--to", tmp_path / "made")
    assert done.code == 2 and "no folder of spelling data" in done.err


def test_languages_are_listed(command: Command) -> None:
    rows = json.loads(command("spell", "languages", "--json").out)
    assert len(rows) >= 100 and {"tag": "sr", "name": "Serbian", "family": "Cyrl-slavic"} in rows
