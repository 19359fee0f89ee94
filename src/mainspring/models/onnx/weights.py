"""Which constants of a graph are weights.

A graph says which tensors are constant, not which are learnt. A constant is taken for a weight where it is
used like one: as a matrix, a filter, a table, the scale or bias of a normalisation, or added to or multiplied
with what has been computed from the data. Shapes, masks, tables of positions and single numbers are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from mainspring.models.onnx.graph import Step

ANY = (1, 2)
"""Of two operands that commute, either may be the weight."""
ALWAYS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3, 5),
    "Gather": (0,),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 5, 6, 7),
    "LayerNormalization": (1, 2),
    "LinearClassifier": (1, 2),
    "LinearRegressor": (1, 2),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3, 5),
}
"""Inputs of operators that are weights, whatever the others are."""
WITH_SIGNAL = {"Add", "Div", "Einsum", "Gemm", "MatMul", "Mul", "Sub"}
"""Operators of which an input is a weight if another is computed from the data."""
ELEMENTWISE = {"Add", "Div", "Mul", "Sub"}
MOVES = {"Cast", "Concat", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
         "Unsqueeze"}  # fmt: skip
"""Operators whose result holds the elements of their inputs: a weight may pass through."""
LARGEST = 1e4
"""What is added with such values is a mask."""


class Source(NamedTuple):
    """A constant of the graph."""

    tensor: Tensor
    place: str
    """"initializer", or in a node: the name of its attribute."""
    node: str = ""
    """That node's first output."""


def find_weights(
    steps: Sequence[Step], constants: Mapping[str, Source], data: Iterable[str]
) -> tuple[str, ...]:
    """Names of the constants that are weights, in the order of their first use.

    Args:
        steps: the nodes in order.
        constants: by name.
        data: names of the graph's floating-point inputs.
    """
    holds: dict[str, tuple[str, ...]] = {
        name: (name,) for name, source in constants.items() if _may_learn(source.tensor)
    }
    found: dict[str, None] = {}
    _visit(steps, holds, set(data), constants, found)
    return tuple(found)


def _visit(
    steps: Sequence[Step],
    holds: dict[str, tuple[str, ...]],
    signal: set[str],
    constants: Mapping[str, Source],
    found: dict[str, None],
) -> None:
    """Follow the nodes in order.

    Args:
        steps: of the graph, or of a subgraph.
        holds: constants whose elements a value is made of; added to.
        signal: values that are computed from data, or with weights; added to.
        constants: of the whole graph.
        found: weights; added to.
    """
    for step in steps:
        op, inputs, before = step.call.op, step.inputs, len(found)
        for body in step.bodies.values():
            _visit(body.steps, dict(holds), {*signal, *body.inputs}, constants, found)
        weights = [inputs[n] for n in ALWAYS.get(op, ()) if n < len(inputs) and inputs[n] in holds]
        if op in WITH_SIGNAL and any(name in signal for name in inputs):
            weights += [n for n in inputs if n in holds and _fits(op, n, holds, constants)]
        for name in weights:
            found.update(dict.fromkeys(holds[name]))
        moved = signal.isdisjoint(inputs)
        carried = tuple(h for name in inputs for h in holds.get(name, ()))
        if op in MOVES and carried and moved:
            holds.update(dict.fromkeys(step.outputs, carried))
        if weights or len(found) > before or not signal.isdisjoint(step.reads):
            signal.update(step.outputs)


def _may_learn(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() > 1 and tensor.numel() > 1


def _fits(op: str, name: str, holds: Mapping[str, tuple[str, ...]], constants: Mapping[str, Source]) -> bool:
    """Whether a constant is none of those that are no weights: masks."""
    if op not in ELEMENTWISE:
        return True
    return all(float(constants[h].tensor.abs().max()) < LARGEST for h in holds[name])
