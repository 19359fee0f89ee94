"""`mainspring linear` as a user has it."""

import json

import pytest

from mainspring.cli.main import main


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("".join(f"{1 if k % 3 else -1} {1 + k % 3}:1 {4 + k % 5}:0.5\n" for k in range(300)))
    return path


def test_train_and_predict(data, tmp_path, capsys):
    model = tmp_path / "m.safetensors"
    command = ["linear", "train", str(data), "--to", str(model), "--test", str(data), "--json"]
    assert main([*command, "epochs=3", "rate=0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"] == found["train"] and found["train"]["accuracy"] == 1.0
    assert main(["linear", "predict", str(model), str(data)]) == 0
    assert capsys.readouterr().out.split()[:4] == ["-1", "1", "1", "-1"]
    assert main(["linear", "predict", str(model), str(data), "--score"]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out


def test_a_table_and_least_squares(tmp_path, capsys):
    path = tmp_path / "d.csv"
    path.write_text("x,y\n" + "".join(f"{k / 10},{k / 5 + 1}\n" for k in range(10)) * 40)
    command = [
        "linear",
        "train",
        str(path),
        "--target",
        "y",
        "--to",
        str(tmp_path / "m"),
        "loss=least_squares",
    ]
    assert main([*command, "rate=0.2", "schedule=constant", "epochs=20"]) == 0
    assert "train: loss 0.0000" in capsys.readouterr().out


def test_wrong_input(data, tmp_path, capsys):
    to = str(tmp_path / "m")
    for arguments, message in (
        ([str(data), "los=hinge"], "did you mean 'loss'"),
        ([str(tmp_path / "none.txt")], "cannot be read"),
        ([str(tmp_path / "t.csv")], "name the column"),
    ):
        assert main(["linear", "train", *arguments, "--to", to]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
