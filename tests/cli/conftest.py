"""Data and a finished run that the tests of commands share, and a way to run a command in this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mainspring.cli.main import main
from support.tiny_run import build_data, overrides


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `mainspring ...` in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, _plain(out), _plain(err))

    return run


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of byte-level BPE tokens."""
    return build_data(tmp_path_factory.mktemp("cli") / "data")


@pytest.fixture(scope="session")
def run_dir(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps on one process."""
    directory = tmp_path_factory.mktemp("cli-run") / "tiny"
    assert main(["train", "gpt2-tiny", *overrides(data), "--to", str(directory)]) == 0
    return directory
