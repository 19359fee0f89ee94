"""Runs that train an ONNX graph: arrays and tokens, resumed, over ranks as alone, and the graph written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from mainspring.config import parse
from mainspring.errors import CheckpointError, ConfigError, DataError
from mainspring.models.onnx import read_onnx
from mainspring.parallel import World
from mainspring.train.graph import GraphRecipe, GraphTrainer, is_graph_recipe
from mainspring.train.graph.data import read_arrays
from support.spawn import run_ranks
from support.tiny_run import build_data

pytestmark = pytest.mark.distributed

WIDTH, CLASSES, ROWS = 12, 4, 96


def network(to: Path) -> Path:
    """Four layers with a skip each, from 6 numbers to 4 classes, written by hand."""
    draw = np.random.default_rng(1)
    nodes, weights, x = [], [], "x"
    for n, (inner, outer) in enumerate([(6, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES)]):
        scale = inner**-0.5
        weights += [
            numpy_helper.from_array(draw.normal(0, scale, (inner, outer)).astype(np.float32), f"w.{n}"),
            numpy_helper.from_array(draw.normal(0, 0.1, outer).astype(np.float32), f"b.{n}"),
        ]
        nodes.append(helper.make_node("Gemm", [x, f"w.{n}", f"b.{n}"], [f"h.{n}"]))
        if n == 3:
            break
        nodes.append(helper.make_node("Tanh", [f"h.{n}"], [f"t.{n}"]))
        x = f"t.{n}"
        if n:
            nodes.append(
                helper.make_node("Add", [f"t.{n}", f"t.{n - 1}" if n == 1 else f"s.{n - 1}"], [f"s.{n}"])
            )
            x = f"s.{n}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 6])],
        [helper.make_tensor_value_info("h.3", TensorProto.FLOAT, ["rows", CLASSES])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(to))
    return to


def examples() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 6)).astype(np.float32)
    return {"x": x, "target": np.argmax(x @ draw.normal(size=(6, CLASSES)), 1).astype(np.int64)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    network(folder / "net.onnx")
    np.savez(folder / "data.npz", **examples())
    return folder


def recipe(place: Path, **changes: Any) -> GraphRecipe:
    values: dict[str, Any] = {
        "graph": {"path": str(place / "net.onnx"), "blocks": 4},
        "data": {"kind": "arrays", "path": str(place / "data.npz")},
        "loss": {"kind": "cross_entropy"},
        "optim": {"lr": 0.02, "schedule": {"kind": "constant"}},
        "train": {"steps": 12, "batch_rows": 16, "checkpoint_every": 5},
    }
    for key, value in changes.items():
        section, _, field = key.partition("__")
        values.setdefault(section, {})[field] = value
    return parse(GraphRecipe, values)


def fit(wanted: GraphRecipe, run: Path) -> tuple[list[tuple[float, float]], Path]:
    """Loss and gradient norm of each step, and the trained graph."""
    with World.start(wanted.plan) as world:
        trainer = GraphTrainer(wanted, run, world)
        trainer.fit()
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(e["loss"], e["grad_norm"]) for e in told if e["event"] == "step_done"], trainer.trained


def runtime(file: Path, x: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_a_run_learns_and_runtime_gives_what_the_module_gives(place: Path, tmp_path: Path) -> None:
    curve, trained = fit(recipe(place, train__steps=60), tmp_path)
    assert curve[-1][0] < 0.6 * curve[0][0]
    x = examples()["x"]
    module = read_onnx(trained).module
    np.testing.assert_allclose(
        runtime(trained, x), module(torch.from_numpy(x))["h.3"].detach().numpy(), atol=1e-5
    )
    assert not np.allclose(runtime(trained, x), runtime(place / "net.onnx", x), atol=1e-2)
    assert is_graph_recipe(tmp_path) and not is_graph_recipe(tmp_path / "none")


def test_the_same_call_goes_on_to_the_bit(place: Path, tmp_path: Path) -> None:
    whole, _ = fit(recipe(place), tmp_path / "whole")
    fit(recipe(place, train__steps=7), tmp_path / "parts")
    parts, trained = fit(recipe(place), tmp_path / "parts")
    assert parts == whole
    one, other = (read_onnx(t).module.state_dict() for t in (trained, tmp_path / "whole" / "model.onnx"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(CheckpointError, match="loss.kind was .* and is 'mse'"):
        fit(recipe(place, loss__kind="mse"), tmp_path / "parts")


def over_ranks(rank: int, world: int, place: str, run: str, plans: dict[str, Any]) -> dict[str, Any]:
    """Every plan's curve."""
    found = {}
    for name, changes in plans.items():
        curve, _ = fit(recipe(Path(place), **changes), Path(run) / name)
        found[name] = curve
    return found


PLANS: dict[str, dict[str, Any]] = {
    "zero0": {"plan__data": 2},
    "zero2": {"plan__data": 2, "plan__zero": 2},
    "zero3": {"plan__data": 2, "plan__zero": 3},
    "zero3-remat": {"plan__data": 2, "plan__zero": 3, "plan__remat": True},
    "pipeline": {"plan__pipeline": 2, "train__micro_rows": 4},
}


def test_plans_of_two_ranks_equal_one_process(place: Path, tmp_path: Path) -> None:
    alone, trained = fit(recipe(place), tmp_path / "alone")
    (found, _) = run_ranks(over_ranks, 2, str(place), str(tmp_path), PLANS)
    want = runtime(trained, examples()["x"])
    for name, curve in found.items():
        np.testing.assert_allclose(np.array(curve), np.array(alone), rtol=2e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            runtime(tmp_path / name / "model.onnx", examples()["x"]), want, atol=2e-3, err_msg=name
        )


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plan\.tensor = 2.*zero"):
        recipe(place, plan__tensor=2)
    with pytest.raises(ConfigError, match=r"batch_rows = 15.*plan\.data = 2.*14"):
        recipe(place, plan__data=2, train__batch_rows=15)
    with pytest.raises(ConfigError, match=r"micro_rows = 5.*16 rows"):
        recipe(place, train__micro_rows=5)
    with pytest.raises(DataError, match=r"no 'answer'.*'target'|no 'answer'"):
        GraphTrainer(recipe(place, data__target="answer"), tmp_path, World()).fit()
    with pytest.raises(DataError, match="no such input"):
        GraphTrainer(recipe(place, data__inputs={"z": "x"}), tmp_path, World()).fit()


def test_arrays_of_every_kind_of_file(tmp_path: Path) -> None:
    table = examples()
    save_file(table, str(tmp_path / "data.safetensors"))
    columns = [f"c{n}" for n in range(6)]
    lines = [",".join([*columns, "target"])]
    lines += [
        ",".join(map(repr, [*map(float, row), int(t)]))
        for row, t in zip(table["x"], table["target"], strict=True)
    ]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    assert np.array_equal(read_arrays(tmp_path / "data.safetensors")["x"], table["x"])
    read = read_arrays(tmp_path / "data.csv")
    np.testing.assert_allclose(np.stack([read[c] for c in columns], 1), table["x"])
    assert read["target"].dtype == np.int64
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="objects"):
        read_arrays(tmp_path / "objects.npz")
    with pytest.raises(DataError, match=r"\.npz, \.safetensors and \.csv"):
        read_arrays(tmp_path / "data.xls")


def test_csv_columns_side_by_side_train_a_regression(place: Path, tmp_path: Path) -> None:
    table = examples()
    columns = ",".join(f"c{n}" for n in range(6))
    answers = ",".join(f"y{n}" for n in range(CLASSES))
    rows = [",".join([columns, answers])]
    rows += [",".join(f"{v:.6f}" for v in (*row, *(row[:4] * 0.5))) for row in table["x"]]
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    wanted = recipe(
        place, data__path=str(tmp_path / "data.csv"), data__inputs={"x": columns}, data__target=answers,
        loss__kind="mse", train__steps=40,
    )  # fmt: skip
    curve, _ = fit(wanted, tmp_path / "run")
    assert curve[-1][0] < 0.5 * curve[0][0]


def test_tokens_train_a_language_graph(tmp_path: Path) -> None:
    data = build_data(tmp_path / "data")
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.normal(0, 0.1, shape).astype(np.float32), name)
        for name, shape in (("table", (320, 16)), ("head", (16, 320)))
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bigram",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        weights,
    )
    file = tmp_path / "bigram.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(file))
    values = {
        "graph": {"path": str(file)},
        "data": {"kind": "tokens", "path": str(data), "seq_len": 32},
        "loss": {"kind": "causal"},
        "optim": {"lr": 0.05},
        "train": {"steps": 40, "batch_rows": 8},
    }
    curve, _ = fit(parse(GraphRecipe, values), tmp_path / "run")
    assert curve[0][0] == pytest.approx(np.log(320), rel=0.05)
    assert curve[-1][0] < curve[0][0] - 1
