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


def test_what_is_said_against_repetition(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    shared = {"max_tokens": 24, "no_repeat_ngram": 2, "repetition_penalty": 1.2}
    expected = Engine.load(toy).generate(["the"], GenerateOptions(**shared))[0].text
    again = ["--max-tokens", "24", "--no-repeat-ngram", "2", "--repetition-penalty", "1.2"]
    assert main(["generate", toy, "the", "--temperature", "0", *again]) == 0
    assert capsys.readouterr().out == expected + "\n"
    free = Engine.load(toy).generate(["the"], GenerateOptions(max_tokens=24, repetition_penalty=1.2))[0].text
    assert free != expected, "something would have been said twice"
    for asked, stopping in (("yes", True), ("no", False), ("never", "never")):
        options = GenerateOptions(**shared, num_beams=3, length_penalty=-2.0, early_stopping=stopping)
        expected = Engine.load(toy).generate(["the"], options)[0].text
        beams = ["--beams", "3", "--length-penalty", "-2", "--early-stopping", asked]
        assert main(["generate", toy, "the", *again, *beams]) == 0
        assert capsys.readouterr().out == expected + "\n"


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
        (["TOY", "x", "--no-repeat-ngram", "-1"], "no_repeat_ngram = -1: should be a whole number"),
        (["TOY", "x", "--no-repeat-ngram", "2.5"], "--no-repeat-ngram"),
        (["TOY", "x", "--length-penalty", "inf"], "length_penalty = inf: should be a finite number"),
        (["TOY", "x", "--early-stopping", "maybe"], "--early-stopping"),
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
