"""All operators in one table, and how a node finds its function."""

from __future__ import annotations

from mainspring.errors import UsageError, suggest
from mainspring.models.onnx.operators.attention import ATTENTION
from mainspring.models.onnx.operators.call import Function, Table
from mainspring.models.onnx.operators.elementwise import ELEMENTWISE
from mainspring.models.onnx.operators.indexing import INDEXING
from mainspring.models.onnx.operators.linear import LINEAR
from mainspring.models.onnx.operators.ml import ML
from mainspring.models.onnx.operators.normalization import NORMALIZATION
from mainspring.models.onnx.operators.pooling import POOLING
from mainspring.models.onnx.operators.quantization import QUANTIZATION
from mainspring.models.onnx.operators.recurrent import RECURRENT
from mainspring.models.onnx.operators.reduction import REDUCTION
from mainspring.models.onnx.operators.resizing import RESIZING
from mainspring.models.onnx.operators.sequences import SEQUENCES
from mainspring.models.onnx.operators.shaping import SHAPING
from mainspring.models.onnx.operators.signal import SIGNAL

GROUPS: dict[str, Table] = {
    "Each element": ELEMENTWISE,
    "Reductions": REDUCTION,
    "Shapes and types": SHAPING,
    "Picking and placing": INDEXING,
    "Matrices and convolutions": LINEAR,
    "Pooling": POOLING,
    "Normalisation and losses": NORMALIZATION,
    "Attention": ATTENTION,
    "Recurrent layers": RECURRENT,
    "Quantised integers": QUANTIZATION,
    "Resizing": RESIZING,
    "Signals and chance": SIGNAL,
    "Control flow, sequences and optionals": SEQUENCES,
    "Classical machine learning": ML,
}
"""The table in parts, as the documentation shows it."""

OPERATORS: Table = {key: function for group in GROUPS.values() for key, function in group.items()}
"""Every function by domain, operator and the opset from which it holds."""

INSTEAD: dict[tuple[str, str], str] = {
    (
        "ai.onnx.ml",
        "TreeEnsemble",
    ): "trees have no gradient; train what follows them, or distil them into an MLP",
    ("ai.onnx.ml", "TreeEnsembleClassifier"): "trees have no gradient; train an MLP in their place",
    ("ai.onnx.ml", "TreeEnsembleRegressor"): "trees have no gradient; train an MLP in their place",
    ("ai.onnx.ml", "SVMClassifier"): "export a LinearClassifier or an MLP",
    ("ai.onnx.ml", "SVMRegressor"): "export a LinearRegressor or an MLP",
    ("", "TfIdfVectorizer"): "compute the features before the graph, and name them as its input",
    ("", "StringNormalizer"): "torch has no tensors of text; cut the graph behind it",
    ("", "StringConcat"): "torch has no tensors of text; cut the graph behind it",
    ("", "StringSplit"): "torch has no tensors of text; cut the graph behind it",
    ("", "RegexFullMatch"): "torch has no tensors of text; cut the graph behind it",
    ("", "ImageDecoder"): "decode images before the graph, and name its output as an input",
    ("", "DeformConv"): "GridSample followed by Conv",
    ("com.microsoft", "FusedMatMul"): "export without ONNX Runtime's optimisations: MatMul",
    ("com.microsoft", "SkipLayerNormalization"): "export without ONNX Runtime's optimisations: Add, "
    "LayerNormalization",
    ("com.microsoft", "Attention"): "export without ONNX Runtime's optimisations",
}
"""What to do about some operators that are not in the table."""


def find(domain: str, op: str, opset: int) -> Function | None:
    """The function of an operator at an opset; None where the table has none."""
    versions = [since for d, o, since in OPERATORS if d == domain and o == op and since <= opset]
    return OPERATORS[domain, op, max(versions)] if versions else None


def resolve(domain: str, op: str, opset: int, node: str) -> Function:
    """The function of an operator at an opset.

    Args:
        domain: "" is ONNX's own.
        op: the operator.
        opset: version of its domain that the graph is written in.
        node: name of the node, for the message.

    Raises:
        UsageError: the table has none; names the node and the nearest alternative.
    """
    domain = "" if domain == "ai.onnx" else domain
    found = find(domain, op, opset)
    if found is not None:
        return found
    where = f"node {node!r}: operator {op!r}" + (f" of domain {domain!r}" if domain else "")
    since = [s for d, o, s in OPERATORS if d == domain and o == op]
    if since:
        raise UsageError(
            f"{where} is supported from opset {min(since)} on and the graph has {opset}; convert it with "
            f"onnx.version_converter.convert_version(model, {max(min(since), 13)})"
        )
    near = {o for d, o, _ in OPERATORS if d == domain}
    domains = ", ".join(repr(d) for d in sorted({d for d, _, _ in OPERATORS}))
    remedy = INSTEAD.get((domain, op)) or (
        suggest(op, near) if near else f"operators of domains {domains} and functions of the model are"
    )
    raise UsageError(f"{where} is not supported: {remedy} (docs/reference/onnx-operators.md lists all)")
