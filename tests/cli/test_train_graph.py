"""mainspring train --model: a graph in, the graph out, and what is wrong said with exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .conftest import Command


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear map as a graph, and rows that another one made."""
    folder = tmp_path_factory.mktemp("graph")
    draw = np.random.default_rng(0)
    weight = numpy_helper.from_array(np.zeros((3, 2), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(folder / "linear.onnx"))
    x = draw.normal(size=(64, 3)).astype(np.float32)
    np.savez(folder / "rows.npz", x=x, target=x @ draw.normal(size=(3, 2)).astype(np.float32))
    return folder


def words(files: Path, *more: str) -> list[str]:
    return [
        "train", "--model", str(files / "linear.onnx"), f"data.path={files / 'rows.npz'}", "loss.kind=mse",
        "optim.lr=0.05", "optim.weight_decay=0.0", "train.steps=80", "train.batch_rows=16", *more,
    ]  # fmt: skip


def test_a_graph_is_trained_resumed_and_written(command: Command, files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = command(*words(files), "--to", run)
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == str(run / "model.onnx")
    assert "rows a step" in outcome.err and "MFU" not in outcome.err
    trained = onnx.load(str(run / "model.onnx"))
    weight = numpy_helper.to_array(trained.graph.initializer[0])
    data = np.load(files / "rows.npz")
    np.testing.assert_allclose(data["x"] @ weight, data["target"], atol=0.1)
    again = command("train", run)
    assert again.code == 0 and "resumed after step 80 of 80" in again.err


def test_another_recipe_is_refused_with_the_differences(
    command: Command, files: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert command(*words(files, "train.steps=2"), "--to", run).code == 0
    outcome = command(*words(files, "train.steps=4"), "--to", run)
    assert outcome.code == 2 and "train.steps: the run has 2, you ask for 4" in outcome.err
    assert command(*words(files, "train.steps=4"), "--to", run, "--resume").code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["loss.kind=mze"], "mse"),
        (["data.path=none.npz"], "none.npz"),
        (["graph.freeze=['w.*']"], "no weight is called"),
        (["--model", "none.onnx"], "there is no such file"),
        (["plan.tensor=2"], "plan"),
    ],
)
def test_wrong_input_ends_with_2(
    command: Command, files: Path, tmp_path: Path, change: list[str], said: str
) -> None:
    outcome = command(*words(files, "train.steps=2"), *change, "--to", tmp_path / "run")
    assert outcome.code == 2, outcome.err
    assert said in outcome.err and "Traceback" not in outcome.err


def test_a_recipe_or_a_graph_is_needed(command: Command) -> None:
    outcome = command("train")
    assert outcome.code == 2 and "--model graph.onnx" in outcome.err


def test_a_trained_graph_is_exported_and_quantised(command: Command, files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(*words(files, "train.steps=20"), "--to", run).code == 0
    outcome = command("export", run, "--to", tmp_path / "out", "--format", "onnx")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()
    assert command("export", run, "--to", tmp_path / "int8", "--format", "onnx", "--int8").code == 0
    nodes = onnx.load(str(tmp_path / "int8" / "model.onnx")).graph.node
    assert [n.op_type for n in nodes] == ["DequantizeLinear", "MatMul"]
    outcome = command("export", run, "--to", tmp_path / "no", "--int8")
    assert outcome.code == 2 and "--format onnx" in outcome.err


def test_a_run_is_exported_as_a_graph_with_a_cache(command: Command, run_dir: Path, tmp_path: Path) -> None:
    outcome = command("export", run_dir, "--to", tmp_path / "out", "--format", "onnx")
    assert outcome.code == 0, outcome.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.onnx", "tokenizer.json"]
    inputs = [v.name for v in onnx.load(str(tmp_path / "out" / "model.onnx")).graph.input]
    assert inputs[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert inputs[3:] == [f"past_key_values.{n}.{kind}" for n in range(2) for kind in ("key", "value")]
