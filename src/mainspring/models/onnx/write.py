"""Trained weights back into the graph they came from, everything else untouched.

The file is read again, without knowledge of what its nodes do, and the values of the weights alone are
replaced: names, nodes, metadata and the order of everything stay as they were.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mainspring.errors import UsageError, WeightsError, require
from mainspring.models.onnx.proto import read_proto
from mainspring.models.onnx.read import OnnxGraph

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


def write_onnx(
    source: str | Path | ModelProto,
    graph: OnnxGraph,
    to: str | Path,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a graph with new weights.

    Args:
        source: the file, or the model, that `graph` was read from.
        graph: what `read_onnx` gave.
        to: the file to write; a graph whose tensors lie in other files gets copies of those beside it.
        state: whole tensors by the module's names (`parallel.full_state`); None takes the module's own.

    Returns:
        The file.

    Raises:
        WeightsError: a weight is missing, of another shape, or not in `source`.
        UsageError: the graph keeps tensors in files that writing would overwrite.
    """
    out = Path(to)
    values = graph.module.state_dict() if state is None else state
    weights: dict[str, Tensor] = {}
    for own, name in graph.module.parameter_names.items():
        if own not in values:
            raise WeightsError(f"{own} ({name} in the graph) is not among the weights to write")
        weights[name] = values[own].detach().cpu().contiguous()
    folder = Path() if not isinstance(source, str | Path) else Path(source).resolve().parent
    model = _copy(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    files = {f for t in model.graph.initializer if (f := _entry(t, "location")) is not None}
    if files and folder == out.resolve().parent:
        raise UsageError(
            f"{out}: the graph keeps its tensors in {', '.join(sorted(files))} beside it, which would be "
            "overwritten; write into another folder"
        )
    for file in files:
        (out.parent / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, out.parent / file)
    initializers = {t.name: t for t in model.graph.initializer}
    nodes = {output: node for node in model.graph.node for output in node.output if output}
    for name, tensor in weights.items():
        place = graph.places[name]
        if place.tensor.shape != tensor.shape:
            raise WeightsError(f"{name}: {list(tensor.shape)} for {list(place.tensor.shape)} in the graph")
        _put(name, place.place, place.node, tensor.to(place.tensor.dtype), initializers, nodes, out.parent)
    require("onnx", "onnx").save(model, str(out))
    return out


def _copy(source: str | Path | ModelProto) -> ModelProto:
    if isinstance(source, str | Path):
        return read_proto(source)
    model = type(source)()
    model.CopyFrom(source)
    return model


def _put(
    name: str,
    place: str,
    node: str,
    tensor: Tensor,
    initializers: Mapping[str, TensorProto],
    nodes: Mapping[str, NodeProto],
    folder: Path,
) -> None:
    if place == "initializer":
        if name not in initializers:
            raise WeightsError(f"the file has no initialiser {name!r}; it is not the one that was read")
        _fill(initializers[name], tensor, folder)
        return
    if node not in nodes:
        raise WeightsError(f"the file has no node that computes {node!r}; it is not the one that was read")
    attribute = next(a for a in nodes[node].attribute if a.name == place)
    if place == "value":
        _fill(attribute.t, tensor, folder)
    else:
        attribute.floats[:] = tensor.reshape(-1).tolist()


def _fill(proto: TensorProto, tensor: Tensor, folder: Path) -> None:
    """Put values into a tensor of the file, or into the file beside it where that has them."""
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    location = _entry(proto, "location")
    if location is not None:
        with (folder / location).open("r+b") as file:
            file.seek(int(_entry(proto, "offset") or 0), os.SEEK_SET)
            file.write(raw)
        return
    if proto.float_data:
        proto.float_data[:] = tensor.reshape(-1).tolist()
        return
    for field in ("int32_data", "double_data"):
        proto.ClearField(field)
    proto.raw_data = raw


def _entry(proto: TensorProto, key: str) -> str | None:
    """What an initialiser says of its file; None where it has its values itself."""
    if proto.data_location != proto.EXTERNAL:
        return None
    return next((e.value for e in proto.external_data if e.key == key), None)
