"""What an operator's function is given: the node's attributes, the outputs that are wanted, its subgraphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Value = Any
"""What flows between nodes: a tensor, a list of tensors (ONNX's sequence), or None (an absent optional)."""
Function = Callable[..., Value]
"""Of a `Call` and the node's inputs (None where one is left out): its output, or a tuple of them."""
Body = Callable[..., list[Value]]
"""A subgraph, bound to the values around it: takes its inputs, gives its outputs."""
Table = dict[tuple[str, str, int], Function]
"""Functions by domain ("" is ONNX's own), operator and the opset from which they hold."""


@dataclass(frozen=True)
class Call:
    """A node, for the function that computes it."""

    domain: str
    op: str
    name: str
    """The node's name, or its first output where it has none."""
    opset: int
    """Version of the node's domain."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Python values; tensors as torch's."""
    outputs: tuple[str, ...] = ()
    """Names; "" where an output is not wanted."""
    bodies: Mapping[str, Body] = field(default_factory=dict)
    """Subgraphs by attribute."""

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default` where it is not given."""
        return self.attributes.get(name, default)

    def wants(self, index: int) -> bool:
        """Whether output `index` is used."""
        return index < len(self.outputs) and self.outputs[index] != ""

    def outputs_of(self, *values: Value) -> Value:
        """As many of `values` as the node has outputs."""
        count = max(len(self.outputs), 1)
        return values[0] if count == 1 else tuple(values[:count])


def standard(functions: Mapping[tuple[str, int], Function]) -> Table:
    """A table of ONNX's own operators."""
    return {("", op, since): function for (op, since), function in functions.items()}


def ints(values: Tensor | list[int] | None) -> list[int] | None:
    """Integers that an attribute or an input gives."""
    if isinstance(values, Tensor):
        return [int(v) for v in values.reshape(-1).tolist()]
    return None if values is None else list(values)


def given(call: Call, name: str, values: Tensor | None) -> list[int] | None:
    """Integers that newer opsets take as an input and older ones as the attribute `name`."""
    return ints(values) if values is not None else ints(call.get(name))


UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""Types for which torch has few operators."""


def widened(function: Function) -> Function:
    """Compute wide unsigned integers in int64, which wraps alike, and give their type back."""

    def wide(call: Call, *inputs: Value) -> Value:
        narrow = next((x.dtype for x in inputs if isinstance(x, Tensor) and x.dtype in UNSIGNED), None)
        if narrow is None:
            return function(call, *inputs)
        result = function(
            call, *(x.to(torch.int64) if isinstance(x, Tensor) and x.dtype in UNSIGNED else x for x in inputs)
        )
        many = result if isinstance(result, tuple) else (result,)
        first, *rest = (
            r.to(narrow) if r is not None and r.dtype == torch.int64 and n == 0 else r
            for n, r in enumerate(many)
        )
        return (first, *rest) if isinstance(result, tuple) else first

    return wide
