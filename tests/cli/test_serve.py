"""mainspring serve."""

import json
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from mainspring.cli.main import main
from mainspring.infer import Engine, GenerateOptions
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


def ask(server: Served, **body: object) -> str:
    asked = {"prompt": "the cat", "max_tokens": 12, "temperature": 0, **body}
    request = Request(
        f"{server.url}/v1/completions", json.dumps(asked).encode(), {"content-type": "application/json"}
    )
    with urlopen(request, timeout=60) as response:
        text: str = json.loads(response.read())["choices"][0]["text"]
    return text


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--precision", "int8"], ["--tensor", "2"]], ids=" ".join)
def test_narrow_and_over_ranks(tmp_path: Path, options: list[str]) -> None:
    toy = export_toy(tmp_path / "toy")
    precision = "int8" if "int8" in options else "fp32"
    expected = Engine.load(toy, precision=precision).generate(["the cat"], GenerateOptions(max_tokens=12))[0]
    server = Served([sys.executable, "-m", "mainspring", "serve", str(toy), "--port", "0", *options])
    assert [ask(server) for _ in range(3)] == [expected.text] * 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: ask(server, seed=seed), range(8))) == [expected.text] * 8
    code, rest = server.stop(signal.SIGTERM)
    assert code == 0, rest
    assert rest.endswith("stopped\n")


def test_a_wrong_use_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path)]) == 2
    assert "Looked for recipe.toml" in capsys.readouterr().err
    toy = str(export_toy(tmp_path / "toy"))
    assert main(["serve", toy, "--precision", "int5"]) == 2
    assert "did you mean" in capsys.readouterr().err
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        assert main(["serve", toy, "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another port" in capsys.readouterr().err
