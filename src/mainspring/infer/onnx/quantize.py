"""int8 in ONNX: matrices stored in 8 bits with a scale for each channel, and a node that gives them back.

The integers are those of `numerics.Integers(8)`, so a graph and a quantised model of ours agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mainspring.errors import require
from mainspring.models.onnx.types import tensor_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

LARGEST = 127
"""The most negative code is not used, as in `numerics.Integers`."""
SUFFIXES = ("quantized", "scale")


def quantize_file(file: str | Path) -> None:
    """Quantise the matrices of a graph, in its file."""
    onnx = require("onnx", "onnx")
    model = onnx.load(str(file))
    onnx.save(quantize_weights(model), str(file))


def quantize_weights(model: ModelProto) -> ModelProto:
    """Store the matrices that products take as int8, with a DequantizeLinear node in front of each.

    Of `MatMul(x, W)` with W [in, out] and `Gemm` each output has a scale (also of tables that a `Transpose`
    turns into such a matrix, as tied heads do); tables that are looked up only stay.

    Args:
        model: with its tensors inside; changed in place.

    Returns:
        The same model.
    """
    graph = model.graph
    weights = {t.name: t for t in graph.initializer if t.data_type == 1 and len(t.dims) == 2}
    axes = _axes(list(graph.node), weights)
    nodes = []
    for name, axis in axes.items():
        codes, scales = codes_of(tensor_of(weights[name]), axis)
        nodes += _dequantized(graph.initializer, name, codes, scales, axis)
    kept = [t for t in graph.initializer if t.name not in axes]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    every = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(every)
    return model


def codes_of(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The integers of a matrix, int8, and the scale of each slice of `axis`, fp32."""
    scales = weight.abs().amax(1 - axis) / LARGEST
    divisor = torch.where(scales > 0, scales, 1.0)
    codes = torch.round(weight / (divisor[:, None] if axis == 0 else divisor)).clamp(-LARGEST, LARGEST)
    return codes.to(torch.int8), divisor


def _axes(nodes: list[NodeProto], weights: dict[str, TensorProto]) -> dict[str, int]:
    """The axis of each matrix along which outputs lie."""
    turned = {n.output[0]: n.input[0] for n in nodes if n.op_type == "Transpose" and n.input[0] in weights}
    axes: dict[str, int] = {}
    for node in nodes:
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            continue
        name = node.input[1]
        across = next((a.i for a in node.attribute if a.name == "transB"), 0)
        axis = 0 if across else 1
        if name in turned:
            name, axis = turned[name], 1 - axis
        if name in weights:
            axes.setdefault(name, axis)
    return axes


def _dequantized(
    store: list[TensorProto], name: str, codes: Tensor, scales: Tensor, axis: int
) -> list[NodeProto]:
    """Tensors and the node that gives `name` as it was."""
    onnx = require("onnx", "onnx")
    names = [f"{name}.{suffix}" for suffix in SUFFIXES]
    arrays = (codes.numpy(), scales.numpy().astype(np.float32))
    store.extend(onnx.numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True))
    return [onnx.helper.make_node("DequantizeLinear", names, [name], name=f"{name}.dequantize", axis=axis)]
