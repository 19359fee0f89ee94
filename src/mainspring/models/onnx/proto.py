"""ONNX files: reading them, their attributes as Python values, and functions put in the place of their
calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mainspring.errors import UsageError, require
from mainspring.models.onnx.operators.table import find
from mainspring.models.onnx.types import tensor_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OLDEST = 7
"""Opset from which operators broadcast as numpy does."""


def read_proto(path: str | Path) -> ModelProto:
    """Read a model, leaving tensors in files beside it where they are.

    Raises:
        UsageError: there is no such file, or it is no ONNX model.
        MissingExtraError: onnx is not installed.
    """
    onnx = require("onnx", "onnx")
    try:
        model: ModelProto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # protobuf has several errors of its own for what is no message
        raise UsageError(f"{path}: no ONNX model ({type(error).__name__}: {error})") from error
    if not model.graph.node:
        raise UsageError(f"{path}: an ONNX model without nodes; is it one?")
    return model


def opsets_of(model: ModelProto) -> dict[str, int]:
    """Version of each domain of operators; "" is ONNX's own.

    Raises:
        UsageError: ONNX's own is too old, or newer than the installed onnx knows.
    """
    onnx = require("onnx", "onnx")
    found = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    own, newest = found.get(""), onnx.defs.onnx_opset_version()
    if own is not None and own < OLDEST and any(n.domain in ("", "ai.onnx") for n in model.graph.node):
        raise UsageError(
            f"the graph is of opset {own}, whose operators do not broadcast; opsets {OLDEST} to {newest} are "
            f"read: convert it with onnx.version_converter.convert_version(model, 13)"
        )
    if own is not None and own > newest:
        raise UsageError(
            f"the graph is of opset {own} and onnx {onnx.__version__} knows {newest}: upgrade onnx"
        )
    return found


def inlined(model: ModelProto, opsets: dict[str, int]) -> ModelProto:
    """The model with its own functions, and those operators that ONNX defines by others and our table has
    not, replaced by their nodes. Names of initialisers stay."""
    inliner = require("onnx.inliner", "onnx")
    if model.functions:
        model = inliner.inline_local_functions(model)
    defined = {
        (n.domain, n.op_type)
        for n in _nodes(model.graph)
        if find(_own(n.domain), n.op_type, opsets.get(_own(n.domain), 1)) is None and _has_body(n, opsets)
    }
    if defined:
        try:
            model = inliner.inline_selected_functions(model, sorted(defined), False, True)
        except RuntimeError as error:
            raise UsageError(
                f"onnx cannot put its own definition of {', '.join(op for _, op in sorted(defined))} in "
                f"their place ({str(error).splitlines()[0][:120]}); export the graph at an opset without them"
            ) from error
    return model


def _own(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _has_body(node: NodeProto, opsets: dict[str, int]) -> bool:
    defs = require("onnx.defs", "onnx")
    domain = _own(node.domain)
    if not defs.has(node.op_type, domain=domain):
        return False
    version = opsets.get(domain, 1)
    try:
        schema = defs.get_schema(node.op_type, max_inclusive_version=version, domain=domain)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _nodes(graph: GraphProto) -> list[NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _nodes(attribute.g)
    return found


def attributes_of(node: NodeProto, folder: str) -> tuple[dict[str, Any], dict[str, GraphProto]]:
    """A node's attributes as Python values, and its subgraphs."""
    helper = require("onnx.helper", "onnx")
    values: dict[str, Any] = {}
    graphs: dict[str, GraphProto] = {}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graphs[attribute.name] = attribute.g
        elif attribute.HasField("t"):
            values[attribute.name] = tensor_of(attribute.t, folder)
        else:
            value = helper.get_attribute_value(attribute)
            if isinstance(value, bytes):
                value = value.decode()
            elif isinstance(value, list):
                value = [v.decode() if isinstance(v, bytes) else v for v in value]
            values[attribute.name] = value
    return values, graphs
