"""Graphs from torch, scikit-learn and by hand: the same numbers as ONNX Runtime, gradients everywhere, and
their weights written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mainspring.errors import UsageError, WeightsError
from mainspring.models.onnx import read_onnx, write_onnx
from mainspring.models.onnx.module import OnnxBlock

from .cases import export_torch, runtime


class Convolutions(nn.Module):
    """A small network of images, in use by norms, pools and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = nn.functional.max_pool2d(self.second(x), 2)
        return self.out(x.mean((2, 3)))


class Layer(nn.Module):
    """Attention and a feed-forward network, each on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        q, k, v = (t.view(rows, tokens, 2, 8).transpose(1, 2) for t in self.qkv(self.before(x)).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(rows, tokens, 16))
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


class Attending(nn.Module):
    """Layers of attention over tokens with a mask, tied to their table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.places = nn.Parameter(torch.randn(1, 12, 16) * 0.1)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.norm = nn.LayerNorm(16)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids) + self.places[:, : ids.shape[1]]
        seen = (mask > 0)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        for layer in self.layers:
            x = layer(x, seen)
        return self.norm(x) @ self.table.weight.T


def images(seed: int) -> tuple[Tensor]:
    return (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)),)


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 9:] = 0
    return torch.randint(40, (2, 12), generator=draw), mask


MODELS = {
    "convolutions-13": (Convolutions, images, 13),
    "convolutions-20": (Convolutions, images, 20),
    "attention-17": (Attending, tokens, 17),
    "attention-23": (Attending, tokens, 23),
}


@pytest.fixture(scope="module", params=MODELS, ids=str)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A graph from torch: the module, its file and its inputs by name."""
    kind, inputs, opset = MODELS[request.param]
    torch.manual_seed(3)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in model.parameters():  # exporters store equal tensors, such as fresh norms', once
            parameter.add_(0.1 * torch.randn_like(parameter))
    names = ["x"] if len(inputs(0)) == 1 else ["ids", "mask"]
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_torch(model, inputs(0), file, opset, input_names=names, output_names=["y"])
    return model, file, dict(zip(names, inputs(1), strict=True))


def test_a_graph_from_torch_gives_the_same_and_every_weight_a_gradient(exported: Any) -> None:
    model, file, feeds = exported
    graph = read_onnx(file)
    found = graph.module(**feeds)["y"]
    (wanted,) = runtime(file, feeds)
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=2e-5)
    found.square().mean().backward()
    weights = sum(p.numel() for p in model.parameters())
    learnt = list(graph.module.parameters())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learnt)
    folded = 2 * 8  # exporters fold a batch norm into the convolution before it, or do not
    tied = model.table.weight.numel() if isinstance(model, Attending) else 0  # and store a tied table twice
    assert weights - folded <= sum(p.numel() for p in learnt) <= weights + tied


def test_trained_weights_go_back_and_nothing_else_changes(exported: Any, tmp_path: Path) -> None:
    _, file, feeds = exported
    graph = read_onnx(file)
    optimizer = torch.optim.AdamW(graph.module.parameters(), lr=1e-2)
    before = graph.module(**feeds)["y"].square().mean()
    for _ in range(3):
        loss = graph.module(**feeds)["y"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = graph.module(**feeds)["y"].detach()
    assert trained.square().mean() < before
    out = write_onnx(file, graph, tmp_path / "new" / "model.onnx")
    (wanted,) = runtime(out, feeds)
    np.testing.assert_allclose(trained.numpy(), wanted, atol=1e-5)
    assert without_values(file, graph) == without_values(out, graph)
    again = read_onnx(out).module
    torch.testing.assert_close(again(**feeds)["y"], trained, atol=1e-6, rtol=1e-6)


def without_values(file: Path, graph: Any) -> bytes:
    """A file's bytes but for the values of its weights."""
    model = onnx.load(str(file))
    for tensor in model.graph.initializer:
        if tensor.name in graph.places:
            for name in ("raw_data", "float_data"):
                tensor.ClearField(name)
    return model.SerializeToString(deterministic=True)


def test_blocks_own_the_weights_and_parts_give_the_whole(exported: Any) -> None:
    from mainspring.nn.part import Part

    _, file, feeds = exported
    module = read_onnx(file).module
    blocks = module.blocks()
    assert len(blocks) > 1 and all(isinstance(b, OnnxBlock) for b in blocks)
    owned = {id(p) for b in blocks for p in b.parameters()}
    assert owned == {id(p) for p in module.parameters()}
    whole = module(**feeds)["y"]
    for cut in range(1, len(blocks)):
        carried = module(**feeds, part=Part(0, cut, len(blocks)))
        rest = module(**feeds, part=Part(cut, len(blocks), len(blocks)), carried=carried)
        torch.testing.assert_close(rest["y"], whole)
    assert len(read_onnx(file, blocks=1).module.blocks()) == 1


def test_frozen_weights_stay(exported: Any) -> None:
    _, file, _feeds = exported
    graph = read_onnx(file, freeze=["*bias*"])
    names = graph.module.parameter_names
    for own, parameter in graph.module.named_parameters():
        assert parameter.requires_grad == ("bias" not in names[own])
    with pytest.raises(UsageError, match="no weight is called 'none'"):
        read_onnx(file, freeze=["none"])


def initializer(name: str, values: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=np.float32), name)


def float_input(name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def made(nodes: list[Any], inputs: list[Any], outputs: list[str], weights: list[TensorProto]) -> Any:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(nodes, "made", inputs, values, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_masks_positions_and_single_numbers_are_no_weights() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "half"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["m"]),
        helper.make_node("Transpose", ["v"], ["vt"], perm=[1, 0]),
        helper.make_node("MatMul", ["m", "vt"], ["o"]),
        helper.make_node("Cast", ["place"], ["angle"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["angle", "frequency"], ["turn"]),
        helper.make_node("Cos", ["turn"], ["wave"]),
        helper.make_node("Mul", ["o", "wave"], ["y"]),
    ]
    inputs = [float_input("x", 2, 4), helper.make_tensor_value_info("place", TensorProto.INT64, [3])]
    weights = [
        initializer("w", np.eye(4)),
        initializer("half", 0.5),
        initializer("mask", [0, 0, 0, -3e4]),
        initializer("v", np.ones((3, 4))),
        initializer("frequency", [1, 0.1, 0.01]),
    ]
    graph = read_onnx(made(nodes, inputs, ["y"], weights))
    assert set(graph.places) == {"w", "v"}
    assert set(graph.constant) == {"mask", "frequency"}


def test_subgraphs_see_what_is_around_them_and_their_weights_learn() -> None:
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"])], "then", [], [float_input("a", 2, 3)]
    )
    other = helper.make_graph(
        [helper.make_node("Sub", ["x", "x"], ["b"])], "else", [], [float_input("b", 2, 3)]
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    weights = [initializer("w", np.eye(3)), initializer("zero", 0)]
    model = made(nodes, [float_input("x", 2, 3)], ["y"], weights)
    module = read_onnx(model).module
    x = torch.ones(2, 3)
    module(x)["y"].sum().backward()
    (weight,) = module.parameters()
    assert torch.equal(weight.grad, torch.full((3, 3), 2.0))
    assert torch.equal(module(-x)["y"], torch.zeros(2, 3))
    np.testing.assert_allclose(module(x)["y"].detach(), runtime(model.SerializeToString(), {"x": x})[0])


def test_a_models_own_functions_are_put_in_place() -> None:
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Twice", ["h"], ["y"], domain="mine"),
    ]
    model = made(nodes, [float_input("x", 2, 3)], ["y"], [initializer("w", np.eye(3))])
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    x = torch.randn(2, 3)
    torch.testing.assert_close(read_onnx(model).module(x)["y"], 2 * x)


def test_tensors_in_files_beside_the_graph(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    model = made(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [float_input("x", 2, 32)], ["y"],
        [initializer("w", weight)],
    )  # fmt: skip
    file = tmp_path / "in" / "model.onnx"
    file.parent.mkdir()
    onnx.save(model, str(file), save_as_external_data=True, location="model.data", size_threshold=0)
    graph = read_onnx(file)
    with torch.no_grad():
        next(graph.module.parameters()).mul_(2)
    with pytest.raises(UsageError, match=r"model\.data.*another folder"):
        write_onnx(file, graph, file.parent / "other.onnx")
    out = write_onnx(file, graph, tmp_path / "out" / "model.onnx")
    x = torch.randn(2, 32)
    np.testing.assert_allclose(runtime(out, {"x": x})[0], 2 * x.numpy() @ weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(runtime(file, {"x": x})[0], x.numpy() @ weight, rtol=1e-4, atol=1e-5)


def test_weights_that_are_a_nodes_value_learn_and_go_back(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=initializer("", np.eye(3))),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = made(nodes, [float_input("x", 2, 3)], ["y"], [])
    graph = read_onnx(model)
    with torch.no_grad():
        next(graph.module.parameters()).mul_(3)
    out = write_onnx(model, graph, tmp_path / "model.onnx")
    x = torch.randn(2, 3)
    np.testing.assert_allclose(runtime(out, {"x": x})[0], 3 * x.numpy(), rtol=1e-5)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("this is no graph")
    with pytest.raises(UsageError, match="ONNX model"):
        read_onnx(tmp_path / "text.onnx")
    model = made(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [float_input("x", 2, 3)], ["y"],
        [initializer("w", np.eye(3))],
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"no 'z'.*'y'"):
        read_onnx(model, outputs=["z"])
    graph = read_onnx(model)
    with pytest.raises(UsageError, match="wants x"):
        graph.module()
    with pytest.raises(UsageError, match="no input 'xx'.*'x'"):
        graph.module(xx=torch.ones(2, 3))
    with pytest.raises(WeightsError, match="not among the weights"):
        write_onnx(model, graph, tmp_path / "out.onnx", {})


@pytest.mark.parametrize("kind", ["classifier", "regressor", "logistic"])
def test_graphs_from_scikit_learn(kind: str, tmp_path: Path) -> None:
    """Trained from the importer without labels: their probabilities or values are what is trained."""
    pytest.importorskip("skl2onnx")
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)
    if kind == "classifier":
        model = make_pipeline(
            StandardScaler(), MLPClassifier(hidden_layer_sizes=(8,), max_iter=20, random_state=0, tol=1)
        )
    elif kind == "regressor":
        model = make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0, tol=1)
        )
    else:
        model = LogisticRegression()
    model.fit(x, y)
    options = {"zipmap": False} if kind != "regressor" else None
    proto = to_onnx(model, x[:1], options={id(model): options} if options else None, target_opset=18)
    graph = read_onnx(proto)
    (output,) = graph.module.outputs
    found = graph.module(torch.from_numpy(x))[output]
    wanted = runtime(proto.SerializeToString(), {graph.module.inputs[0]: x}, [output])[0]
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5)
    assert sum(p.numel() for p in graph.module.parameters()) >= 4
    found.square().sum().backward()
    optimizer = torch.optim.SGD(graph.module.parameters(), lr=0.1)
    optimizer.step()
    trained = graph.module(torch.from_numpy(x))[output].detach()
    out = write_onnx(proto, graph, tmp_path / "model.onnx")
    again = runtime(out, {graph.module.inputs[0]: x}, [output])[0]
    np.testing.assert_allclose(again, trained.numpy(), atol=1e-5)


def test_a_graph_of_fixed_sizes_says_so() -> None:
    """An exporter that wrote the number of rows into a Reshape."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["both"]),
        helper.make_node("MatMul", ["both", "w"], ["y"]),
    ]
    constants = [initializer("w", np.eye(3)), numpy_helper.from_array(np.array([4, -1]), "shape")]
    module = read_onnx(made(nodes, [float_input("x", 4, 3)], ["y"], constants)).module
    torch.testing.assert_close(module(torch.ones(4, 3))["y"], torch.full((4, 3), 2.0))
    with pytest.raises(UsageError, match=r"'x' is \[8, 3\]; .*exported for \[4, 3\].*free sizes.*micro_rows"):
        module(torch.ones(8, 3))
