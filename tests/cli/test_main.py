"""The command line as a whole: help, exit codes, and that asking for help costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mainspring import __version__
from mainspring.cli import errors
from mainspring.cli.main import main
from mainspring.errors import ConfigError, MissingExtraError, RunFault

COMMANDS = (
    "quickstart",
    "data build",
    "data inspect",
    "train",
    "evaluate",
    "generate",
    "distill",
    "prune",
    "sensitivity",
    "quantize",
    "export",
    "import",
    "serve",
    "doctor",
    "plan",
    "report",
    "schema",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"mainspring {name}" in text
    assert len(text.splitlines()) > 8


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f" {name.split()[0]} " in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, time\n"
        "from mainspring.cli.main import main\n"
        "main(['--help'])\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'tokenizers', 'fastapi') if m in sys.modules])\n"
        "print(time.process_time() < 1.0)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-2:] == ["[]", "True"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"mainspring {__version__}"


@pytest.mark.parametrize(
    "arguments", [["tarin"], ["train"], ["train", "gpt2-tiny", "--stpes"], ["data", "biuld"]]
)
def test_wrong_words_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_codes_by_kind_of_error() -> None:
    assert errors.exit_code(ConfigError("x")) == 2
    assert errors.exit_code(RunFault("x")) == 1
    assert errors.exit_code(MissingExtraError("x")) == 1
    assert errors.exit_code(KeyboardInterrupt()) == 130


def test_traceback_is_shown_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "no-such-recipe"]) == 2
    brief = capsys.readouterr().err
    assert main(["plan", "no-such-recipe", "--traceback"]) == 2
    full = capsys.readouterr().err
    assert "Traceback" not in brief
    assert "Traceback (most recent call last)" in full
    assert brief.strip() in full


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mainspring.recipes.load", interrupt)
    assert main(["plan", "gpt2-tiny"]) == 130


def test_module_is_the_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "mainspring", "--version"], capture_output=True, text=True)
    assert ran.returncode == 0
    assert __version__ in ran.stdout
