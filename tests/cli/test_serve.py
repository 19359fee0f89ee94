"""mainspring serve."""

import signal
import sys
from pathlib import Path

import pytest

from mainspring.cli.main import main
from mainspring.serve.server import listen
from support.scripted import Served
from support.toy import export_toy


def test_it_says_where_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    toy = export_toy(tmp_path / "toy")
    server = Served([sys.executable, "-m", "mainspring", "serve", str(toy), "--port", "0"])
    assert server.first_line.startswith(f"serving {toy} at http://127.0.0.1:")
    code, rest = server.stop(signal.SIGINT)
    assert code == 0
    assert rest.startswith("toy: the tokenizer brings no chat template")
    assert rest.endswith("stopped\n")


def test_a_wrong_use_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path)]) == 2
    assert "Looked for recipe.toml" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--dtype", "fp8"]) == 2
    assert "fp32 or bf16" in capsys.readouterr().err
    toy = str(export_toy(tmp_path / "toy"))
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        assert main(["serve", toy, "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another port" in capsys.readouterr().err
