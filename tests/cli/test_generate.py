"""mainspring generate."""

import io
import json
import sys

import pytest

from mainspring.cli.main import main
from mainspring.infer import Engine, GenerateOptions
from support.toy import export_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(export_toy(tmp_path_factory.mktemp("generate") / "toy"))


def test_the_text_is_the_engines(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = GenerateOptions(max_tokens=12, temperature=0.8, top_k=50, top_p=0.9, seed=5, echo=True)
    expected = Engine.load(toy).generate(["the cat"], options)[0].text
    arguments = ["--max-tokens", "12", "--top-k", "50", "--top-p", "0.9", "--seed", "5", "--echo"]
    for how in ("--stream", "--no-stream"):
        assert main(["generate", toy, "the cat", how, *arguments]) == 0
        assert capsys.readouterr().out == expected + "\n"


def test_the_prompt_from_standard_input(
    toy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("the cät\n".encode())))
    assert main(["generate", toy, "-", "--max-tokens", "3", "--temperature", "0", "--json"]) == 0
    completion = json.loads(capsys.readouterr().out)[0]
    expected = Engine.load(toy).generate(["the cät"], GenerateOptions(max_tokens=3))[0]
    assert (completion["text"], completion["prompt_tokens"]) == (expected.text, expected.prompt_tokens)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert main(["generate", toy, "-"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_beams_need_no_temperature(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", toy, "the", "--beams", "3", "--n", "2", "--max-tokens", "4"]) == 0
    best = Engine.load(toy).generate(["the"], GenerateOptions(num_beams=3, n=2, max_tokens=4))
    assert capsys.readouterr().out == f"[1]\n{best[0].text}\n[2]\n{best[1].text}\n"


def test_stop(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Engine.load(toy).generate(["the"], GenerateOptions(max_tokens=20))[0].text
    stop = whole[4:6]
    assert main(["generate", toy, "the", "--temperature", "0", "--max-tokens", "20", "--stop", stop]) == 0
    assert capsys.readouterr().out == whole[: whole.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "x"], "Looked for recipe.toml"),
        (["TOY", "x", "--top-p", "2"], "top_p = 2.0"),
        (["TOY", "x", "--beams", "2", "--temperature", "1"], "num_beams = 2 with temperature"),
        (["TOY", "x " * 600], "512 positions"),
        (["TOY", "x", "--device", "nonsense"], "device 'nonsense'"),
        (["TOY", "x", "--max-tokens", "many"], "--max-tokens"),
        (["TOY"], "prompt"),
    ],
)
def test_a_wrong_use_is_exit_code_2(
    toy: str, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["generate", *(toy if a == "TOY" else a for a in arguments)]) == 2
    assert words.lower() in capsys.readouterr().err.lower()
