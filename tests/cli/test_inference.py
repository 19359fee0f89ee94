"""mainspring embed, classify and pack, and generate over ranks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mainspring.cli.main import main
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.native import export_native_task
from mainspring.infer import Engine, GenerateOptions
from mainspring.models import ModelConfig
from mainspring.models.native import export_native
from mainspring.nn import Transformer, initialize
from mainspring.text import Tokenizer, train_tokenizer
from mainspring.train import launch
from support.toy import small

TEXTS = ["the cat sat", "the dog", "a mat; a log"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat; the dog sat on a log."] * 8, "wordpiece", 80)


def saved(folder: Path, words: Tokenizer, **head: object) -> Path:
    config = small(words.vocab_size)
    model = initialize(TaskModel(config, HeadConfig.model_validate(head)), seed=0)
    return export_native_task(model, words, folder)


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_embed(words: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "m", words, task="span")
    expected = Engine.load(folder).embed(TEXTS, normalize=True).vectors
    assert main(["embed", str(folder), *TEXTS, "--normalize"]) == 0
    found = lines(capsys.readouterr().out)
    assert [one["text"] for one in found] == TEXTS
    torch.testing.assert_close(torch.tensor([one["vector"] for one in found]), expected, atol=1e-6, rtol=1e-6)
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, "the cat " * 40]))
    out = tmp_path / "v.npy"
    assert (
        main(["embed", str(folder), "--file", str(tmp_path / "texts.txt"), "--to", str(out), "--self-check"])
        == 0
    )
    assert np.load(out).shape == (4, 16)
    said = capsys.readouterr()
    assert "4 vectors of 16" in said.out
    assert "1 texts were longer than 32 tokens" in said.err and "self-check passed" in said.err


@pytest.mark.parametrize(
    ("head", "text", "keys"),
    [
        (
            {"task": "classify", "labels": ("no", "yes")},
            "the cat",
            {"label", "score", "scores", "labels", "cut"},
        ),
        ({"task": "score"}, "the cat\tthe dog", {"score"}),
        ({"task": "tag", "labels": ("O", "B-X")}, "the cat", {"words", "entities"}),
        (
            {"task": "span"},
            "the cat\tthe dog sat",
            {"answer", "start", "end", "score", "no_answer", "probability"},
        ),
    ],
)
def test_classify_says_what_the_head_says(
    words: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: dict[str, object], text: str,
    keys: set[str],
) -> None:  # fmt: skip
    folder = saved(tmp_path, words, **head)
    assert main(["classify", str(folder), text]) == 0
    (found,) = lines(capsys.readouterr().out)
    assert set(found) == keys | {"text"}


def test_wrong_input_is_said(words: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(saved(tmp_path, words, task="span"))
    for arguments, message in (
        (["embed", folder], "give texts as arguments, or --file"),
        (["embed", folder, "a", "--to", "x.txt"], "give a name that ends so"),
        (["embed", folder, "a", "--precision", "fb16"], "did you mean"),
        (["classify", folder, "the cat"], "question and context with a tab"),
        (["classify", folder, "a\tb\tc"], "text 1 has 2 tabs"),
        (["generate", folder, "the"], "does not continue text"),
        (["generate", folder, "the", "plan.data=2"], "plan.tensor alone"),
        (["generate", folder, "the", "plan.tensr=2"], "tensor"),
        (["generate", folder, "-", "plan.tensor=2"], "give it as an argument"),
    ):
        assert main(arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_pack(words: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path, words, task="score")
    assert main(["pack", str(folder), "--precision", "bf16"]) == 0
    assert "bf16.safetensors: 0.0 MB" in capsys.readouterr().out
    assert main(["pack", str(folder), "--precision", "bf16"]) == 0
    assert "up to date already" in capsys.readouterr().out


def test_doctor_lists_precisions(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert "torch tier" in found["precision: fp32"]["found"] and "precision: bf16" in found


def test_ranks_are_started_with_the_same_words(
    tmp_path: Path, words: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], int]] = []

    def start(program: list[str], nproc: int, *, threads: int) -> int:
        started.append((program, nproc))
        return 0

    monkeypatch.setattr(launch, "start", start)
    folder = str(saved(tmp_path, words, task="span"))
    asked = [["generate", folder, "the", "plan.tensor=2"], ["serve", folder, "--port", "0", "--tensor", "2"]]
    assert [main(one) for one in asked] == [0, 0]
    assert started == [(["-m", "mainspring", *one], 2) for one in asked]


@pytest.mark.slow
def test_generate_over_two_ranks(tmp_path: Path, words: Tokenizer) -> None:
    config = small(words.vocab_size)
    model = initialize(Transformer(config), seed=0)
    words.save(tmp_path / "tokenizer.json")
    family = ModelConfig(family="gpt2", preset="tiny")
    export_native(family, config, model.state_dict(), tmp_path / "tokenizer.json", tmp_path)
    expected = Engine.load(tmp_path).generate(["the cat"], GenerateOptions(max_tokens=8))[0].text
    command = [sys.executable, "-m", "mainspring", "generate", str(tmp_path), "the cat", "plan.tensor=2"]
    done = subprocess.run(
        [*command, "--temperature", "0", "--max-tokens", "8"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == expected.rstrip("\n")
    assert "first token" in done.stderr and "weights" in done.stderr
